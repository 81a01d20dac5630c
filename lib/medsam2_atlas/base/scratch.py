"""Temporary files whose names contain the mark of their process, so that files of killed processes can be removed."""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.base.processes import ProcessMark

log = logging.getLogger(__name__)

_PREFIX = "medsam2_atlas-"
_NAME = re.compile(r"medsam2_atlas-(?P<mark>[0-9a-f]+_[0-9a-f]+_[0-9a-f]+)-[^/]+")
_LEGACY_NAME = re.compile(r"medsam2_atlas-[a-z0-9_]{8}(\.(nii|nii\.gz|nrrd|mha|bin|dcm|pt))?")
_LEGACY_CONTENT = re.compile(r"image\..*|series")
_LEFTOVER = re.compile(r"\.(part|old)-[A-Za-z0-9_]{8}.*")
_DAY_SECONDS = 24 * 3600.0
_HOUR_SECONDS = 3600.0


def scratch_file(suffix: str = "") -> Path:
    """Creates an empty temporary file, which the caller removes; returns its path.

    Args:
        suffix: end of the file's name, such as `.nii.gz`.

    Raises:
        StorageError: the temporary folder cannot be written to.
    """
    try:
        number, name = tempfile.mkstemp(prefix=_prefix(), suffix=suffix)
    except OSError as error:
        raise _no_room(error) from error
    os.close(number)
    return Path(name)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Creates a temporary folder, yields it, and removes it when the block ends.

    Raises:
        StorageError: the temporary folder cannot be written to.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_prefix()))
    except OSError as error:
        raise _no_room(error) from error
    try:
        yield folder
    finally:
        _remove(folder, folder.parent)


def sweep() -> int:
    """Removes temporary files of processes that no longer run.

    Only files of this user are removed, and links are not followed. Files of another process namespace and files of versions up
    to 0.9 are removed after a day.

    Returns:
        How many files and folders were removed.
    """
    removed = 0
    for entry in _entries(Path(tempfile.gettempdir())):
        if not entry.name.startswith(_PREFIX):
            continue
        path = Path(entry.path)
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError:  # another process has removed it
            continue
        if state.st_uid == os.getuid() and _abandoned(path, state) and _remove(path, path.parent):
            removed += 1
    return removed


def sweep_leftovers(folder: Path, *, recursive: bool = False, age_seconds: float = _HOUR_SECONDS) -> int:
    """Removes unfinished files of `files.replacing` from a folder; they remain if its process is killed.

    A process that is killed while it replaces a folder may leave both the old and the new content under temporary names, and
    nothing under the real name. Therefore both are kept if they are in the same folder, and a warning is logged.

    Args:
        folder: the folder to search; links in it are not followed.
        recursive: whether folders below it are searched, too.
        age_seconds: min age of files to remove, in seconds; another process may be writing a younger file.

    Returns:
        How many files and folders were removed.
    """
    removed = 0
    entries = _entries(folder)
    kept = _half_replaced(entries)
    for entry in entries:
        path = Path(entry.path)
        if _LEFTOVER.fullmatch(entry.name):
            old = time.time() - _youngest(path) > age_seconds
            if path in kept:
                if old:
                    log.warning("%s is kept: a folder was not replaced completely. Check which one is needed.", path)
            elif old and _remove(path, folder):
                removed += 1
        elif recursive and entry.is_dir(follow_symlinks=False):
            removed += sweep_leftovers(path, recursive=True, age_seconds=age_seconds)
    return removed


def _half_replaced(entries: list[os.DirEntry[str]]) -> set[Path]:
    """Returns unfinished folders if both kinds are present: old content (`.old-…`) and new content (`.part-…`)."""
    folders = {kind: set[Path]() for kind in ("old", "part")}
    for entry in entries:
        match = _LEFTOVER.fullmatch(entry.name)
        if match and entry.is_dir(follow_symlinks=False):
            folders[match[1]].add(Path(entry.path))
    return folders["old"] | folders["part"] if all(folders.values()) else set()


def _prefix() -> str:
    return f"{_PREFIX}{ProcessMark.own()}-"


def _no_room(error: OSError) -> StorageError:
    return StorageError(tempfile.gettempdir(), f"cannot be written to ({error}).", "Free some space on the server.")


def _abandoned(path: Path, state: os.stat_result) -> bool:
    old = time.time() - state.st_mtime > _DAY_SECONDS
    match = _NAME.fullmatch(path.name)
    mark = ProcessMark.parse(match["mark"]) if match else None
    if mark is not None:
        return not mark.alive if mark.here else old
    if not old or not _LEGACY_NAME.fullmatch(path.name):
        return False
    # A folder with such a name may belong to a person: it is removed only if it contains nothing but files of this program.
    return not stat.S_ISDIR(state.st_mode) or all(_LEGACY_CONTENT.fullmatch(entry.name) for entry in _entries(path))


def _youngest(path: Path) -> float:
    """Returns the time of the latest change of a file, or of a folder and its contents."""
    try:
        latest = path.lstat().st_mtime
    except OSError:
        return time.time()
    if path.is_dir() and not path.is_symlink():
        latest = max([latest, *(_youngest(Path(entry.path)) for entry in _entries(path))])
    return latest


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        log.debug("%s is not swept: %s", folder, error)
        return []


def _remove(path: Path, below: Path) -> bool:
    try:
        if path.is_dir() and not path.is_symlink():
            remove_folder(path, below)
        else:
            path.unlink(missing_ok=True)
    except (OSError, StorageError) as error:
        log.warning("%s could not be removed: %s", path, error)
        return False
    return True
