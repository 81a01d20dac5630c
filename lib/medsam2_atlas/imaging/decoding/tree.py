"""Lists the files of a path from outside: a file, or a folder with the folders in it, to a limited depth and number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.sniff import is_dicom

DIRECTORY_NAME = "DICOMDIR"
"""Of the file that lists what is on a DICOM medium (PS3.10, 8.6)."""
_MAX_DEPTH = 8
_MAX_FILES = 50_000


def files_below(folder: Path, *, nested: bool = True) -> Iterator[Path]:
    """Yields the files of a folder and of the folders in it, by name; a folder's own files first.

    Hidden files and folders are left out. Links to folders are not followed, so that nothing outside the folder is searched;
    links to files are, since archives such as git-annex keep files in that way.

    Raises:
        InputError: more than 50,000 files, or folders more than 8 deep.
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
            subject, f"holds more than {_MAX_FILES} files.", "Give a folder with the slices of exactly one series."
        )
    for entry in sorted(found, key=lambda item: item.name):
        if entry.is_file():
            yield folder / entry.name
        elif nested and entry.is_dir(follow_symlinks=False):
            folders.append(folder / entry.name)
    for below in folders:
        if depth == 0:
            raise InputError(subject, f"holds folders more than {_MAX_DEPTH} deep.", "Give the folder of the series itself.")
        yield from _below(below, depth - 1, nested, left, subject)


def file_states(path: Path) -> list[tuple[str, int, int]]:
    """Returns name, size in bytes and time of change (ns) of the files that are read from a path, sorted.

    They tell whether what would be read has changed. A folder stands for all that is in it, a DICOM file for the files beside
    it, which may be slices of its series.

    Raises:
        InputError: see `files_below`.
        OSError: something cannot be read.
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
