"""Lists the files of a path from outside: a file, or a folder with its subfolders, up to a limited depth and number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.sniff import is_dicom

DIRECTORY_NAME = "DICOMDIR"
"""The name of the file that lists the content of a DICOM medium (PS3.10, 8.6)."""
_MAX_DEPTH = 8
_MAX_FILES = 50_000


def files_below(folder: Path, *, nested: bool = True) -> Iterator[Path]:
    """Yields the files of a folder and its subfolders, in the order of their names; a folder's own files come first.

    Hidden files and folders are skipped. Links to folders are not followed, so that nothing outside the folder is searched.
    Links to files are followed, as archives such as git-annex store files in this way.

    Args:
        folder: the folder to search.
        nested: whether subfolders are searched, too.

    Raises:
        InputError: there are more than 50,000 files, or subfolders more than 8 levels deep.
        OSError: a folder cannot be read.
    """
    yield from _below(folder, _MAX_DEPTH if nested else 0, nested, [_MAX_FILES], folder)


def _below(folder: Path, depth: int, nested: bool, left: list[int], subject: Path) -> Iterator[Path]:
    folders = []
    with os.scandir(folder) as entries:
        found = [entry for entry in islice(entries, left[0] + 1) if not entry.name.startswith(".")]
    left[0] -= len(found)
    if left[0] < 0:
        raise InputError(
            subject, f"contains more than {_MAX_FILES} files.", "Give a folder with the slices of exactly one series."
        )
    for entry in sorted(found, key=lambda item: item.name):
        if entry.is_file():
            yield folder / entry.name
        elif nested and entry.is_dir(follow_symlinks=False):
            folders.append(folder / entry.name)
    for below in folders:
        if depth == 0:
            problem = f"contains folders more than {_MAX_DEPTH} levels deep."
            raise InputError(subject, problem, "Give the folder of the series itself.")
        yield from _below(below, depth - 1, nested, left, subject)


def file_states(path: Path) -> list[tuple[str, int, int]]:
    """Returns name, size in bytes and time of change (ns) of all files that are read for a path, sorted by name.

    Comparing two results shows whether the files have changed. For a folder, the result contains all its files; for a DICOM
    file, also the files beside it, which may be slices of its series.

    Raises:
        InputError: the folder has too many files or levels, see `files_below`.
        OSError: a file or folder cannot be read.
    """
    if path.is_dir():
        files = {*path.iterdir(), *files_below(path)}
    elif is_dicom(path):
        path, nested = path.parent, path.name.upper() == DIRECTORY_NAME
        files = {file for file in files_below(path, nested=nested) if file.exists()}
    else:
        return [_state(path, path.name)]
    return [_state(file, file.relative_to(path).as_posix()) for file in sorted(files)]


def _state(file: Path, name: str) -> tuple[str, int, int]:
    state = file.stat()
    return name, state.st_size, state.st_mtime_ns
