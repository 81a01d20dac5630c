"""Checks the output paths of a command before the command spends minutes on the content.

A file is written next to its target and then renamed. So the target's folder must be writable, but the target itself need not.
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
"""A suffix begins with a letter. DICOM files are often named by a UID, whose last number is not a suffix."""


def check_files(
    *outputs: tuple[Path | None, Sequence[str]], inputs: Iterable[Path | None] = (), made: Iterable[Path] = ()
) -> None:
    """Checks that a command can write its output files.

    Args:
        outputs: pairs of a file and the suffixes allowed for it; the suffix "" allows a name without a suffix. A pair whose
            file is None is skipped.
        inputs: files and folders that the command reads. They must exist, and an output must not replace one of them. None is
            skipped.
        made: folders that the command creates if they do not exist.

    Raises:
        InputError: an input does not exist; or an output has another suffix, is a folder or a device, is also an input or
            another output, or is in a folder that does not exist or is not writable.
    """
    made, read, seen = [*made], [path for path in inputs if path is not None], set[str]()
    for folder in made:
        check_folder(folder)
    for path, suffixes in outputs:
        if path is None:
            continue
        if not (path.name.endswith(tuple(filter(None, suffixes))) or ("" in suffixes and not _SUFFIX.search(path.name))):
            known = " or ".join(filter(None, suffixes))
            raise InputError(path, "cannot be written: its suffix does not fit its content.", f"End its name in {known}.")
        try:
            _check_file(path, read, made)
        except OSError as error:
            raise InputError(path, f"cannot be written ({error.strerror}).", "Choose another file.") from error
        resolved = os.path.realpath(path)
        if resolved in seen:
            raise InputError(path, "is given for two outputs.", "Give each output its own file.")
        seen.add(resolved)
    for given in read:
        check_exists(given)


def check_exists(path: Path) -> None:
    """Checks that an input exists, before a command loads anything.

    Raises:
        InputError: the path does not exist, or may not be looked up.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(path, "does not exist.", "Check the path.") from error
    except (OSError, ValueError) as error:  # ValueError: the name has a null character
        raise InputError(path, f"cannot be read ({error}).", "Check its permissions.") from error


def check_folder(path: Path, *, replaced: bool = False) -> None:
    """Checks that a command can write into a folder.

    Args:
        path: the folder; it and its parents need not exist.
        replaced: whether a new folder is written next to `path` and then replaces it; the parent must exist.

    Raises:
        InputError: the path is not a folder, or the folder cannot be created or written to.
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
            raise InputError(path, f"cannot be created: {existing} is a file.", "Name another folder.")
        if not _writable(existing):
            raise InputError(path, f"cannot be written: you may not write into {existing}.", "Name another folder.")
    except OSError as error:
        raise InputError(path, f"cannot be written ({error.strerror}).", "Name another folder.") from error


def _check_file(path: Path, inputs: Sequence[Path], made: Sequence[Path]) -> None:
    if path.is_dir():
        raise InputError(path, "is a folder.", "Name a file.")
    if path.exists() and not path.is_file():
        raise InputError(path, "is not a regular file, and writing would replace it.", "Name another file.")
    if path.exists() and any(file.exists() and path.samefile(file) for file in inputs):
        raise InputError(path, "is also an input, which writing would replace.", "Name another file.")
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
    """Returns whether files can be created in a folder: its permissions allow it, and its disk is not read-only."""
    return os.access(folder, os.W_OK | os.X_OK)
