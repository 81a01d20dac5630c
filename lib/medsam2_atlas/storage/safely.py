"""Writing files of a studies folder: under short temporary names, on disk before the rename that makes them count."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.files import sha256

log = logging.getLogger(__name__)


@contextmanager
def temporary(folder: Path, suffix: str) -> Iterator[Path]:
    """A new short name in a folder; what lies under it when the block ends is removed."""
    part = folder / f".part-{os.urandom(4).hex()}{suffix}"
    try:
        yield part
    finally:
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed (%s)", part, error.strerror)


@contextmanager
def staged_copy(source: Path, folder: Path) -> Iterator[Path]:
    """A copy of a file in another folder, safe on disk; removed when the block ends, unless it has been renamed."""
    make_folder(folder)
    with temporary(folder, "".join(source.suffixes[-2:])[-8:]) as part:
        shutil.copyfile(source, part)
        flush(part)
        yield part


def copy_safely(source: Path, target: Path) -> str:
    """Puts a copy in the target's place in one step, safe on disk; its SHA-256."""
    with staged_copy(source, target.parent) as part:
        checksum = sha256(part)
        os.replace(part, target)
    flush(target.parent)
    return checksum


def write_safely(file: Path, text: str) -> None:
    """Writes a text, and waits until it is on disk."""
    file.write_text(text, encoding="utf-8")
    flush(file)


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder, and sees to it that its name is on disk too."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)
