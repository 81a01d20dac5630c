"""Checks the files and folders that a command will write, before it spends minutes on their content.

Files are written beside their target and renamed, so that the target's folder has to be writable, and an existing target need
not be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsam2_atlas.base.errors import InputError

DICOM = (".dcm", ".dicom", "")
JSON = (".json",)
NPZ = (".npz",)
PNG = (".png",)
WEIGHTS = (".pt", ".pth")

_SUFFIX = re.compile(r"\.[^\W\d]\w*$")
"""A suffix begins with a letter: the last part of a UID, a common name of DICOM files, is none."""


def check_files(
    *outputs: tuple[Path | None, Sequence[str]], inputs: Iterable[Path | None] = (), made: Iterable[Path] = ()
) -> None:
    """Accepts files to write.

    Args:
        outputs: files, each with the suffixes that its name may end in; "" allows a name without a suffix. None is skipped.
        inputs: files and folders that the command reads, which an output must not replace.
        made: folders that the command makes if they do not exist.

    Raises:
        InputError: another suffix; a folder or a device of that name; an input or another output; a folder that does not
            exist or cannot be written to.
    """
    made, read, seen = [*made], [path for path in inputs if path is not None], set[str]()
    for folder in made:
        check_folder(folder)
    for path, suffixes in outputs:
        if path is None:
            continue
        if not (path.name.endswith(tuple(filter(None, suffixes))) or ("" in suffixes and not _SUFFIX.search(path.name))):
            known = " or ".join(filter(None, suffixes))
            raise InputError(path, "cannot be written: it has another suffix than its content.", f"End its name in {known}.")
        try:
            _check_file(path, read, made)
        except OSError as error:
            raise InputError(path, f"cannot be written ({error.strerror}).", "Choose another file.") from error
        resolved = os.path.realpath(path)
        if resolved in seen:
            raise InputError(path, "is named for two outputs.", "Give each output its own file.")
        seen.add(resolved)


def check_folder(path: Path, *, replaced: bool = False) -> None:
    """Accepts a folder to write into.

    Args:
        path: of the folder; it and its parents may not exist yet.
        replaced: whether the folder is written beside an existing one and takes its place; its parent must exist.

    Raises:
        InputError: not a folder, or one that cannot be made or written to.
    """
    try:
        if path.exists() and not path.is_dir():
            raise InputError(path, "is a file.", "Name a folder.")
        if replaced:
            path = path.absolute()
            _check_parent(path, path.parent)
            return
        existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise InputError(path, f"cannot be made: {existing} is a file.", "Name another folder.")
        if not _writable(existing):
            raise InputError(path, f"cannot be written: you may not write into {existing}.", "Name another folder.")
    except OSError as error:
        raise InputError(path, f"cannot be written ({error.strerror}).", "Name another folder.") from error


def _check_file(path: Path, inputs: Sequence[Path], made: Sequence[Path]) -> None:
    if path.is_dir():
        raise InputError(path, "is a folder.", "Name a file.")
    if path.exists() and not path.is_file():
        raise InputError(path, "is not a regular file: it would be replaced by one.", "Name another file.")
    if path.exists() and any(file.exists() and path.samefile(file) for file in inputs):
        raise InputError(path, "is also an input, and would be overwritten.", "Name another file.")
    if path.parent.absolute() not in [folder.absolute() for folder in made]:
        _check_parent(path, path.parent)


def _check_parent(path: Path, parent: Path) -> None:
    if not parent.exists():
        raise InputError(path, "cannot be written: its folder does not exist.", f"Create {parent} first.")
    if not parent.is_dir():
        raise InputError(path, f"cannot be written: {parent} is not a folder.", "Name another file.")
    if not _writable(parent):
        raise InputError(path, f"cannot be written: you may not write into {parent}.", "Choose another folder.")


def _writable(folder: Path) -> bool:
    """Returns whether files can be made in a folder: permissions allow it, and its disk is not read-only."""
    return os.access(folder, os.W_OK | os.X_OK)
