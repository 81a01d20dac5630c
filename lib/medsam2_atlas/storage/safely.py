"""Writes files of a studies folder under short temporary names, and flushes them to disk before the final rename."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.files import sha256

log = logging.getLogger(__name__)


@contextmanager
def temporary(folder: Path, suffix: str) -> Iterator[Path]:
    """Yields a new short file name in a folder; removes a file of that name after the block."""
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
    """Yields a copy of a file in another folder, flushed to disk; removes it after the block unless it was renamed."""
    make_folder(folder)
    with temporary(folder, "".join(source.suffixes[-2:])[-9:]) as part:
        shutil.copyfile(source, part)
        flush(part)
        yield part


def copy_safely(source: Path, target: Path) -> str:
    """Replaces the target with a copy of the source in one step, flushed to disk; returns the SHA-256 of the copy."""
    with staged_copy(source, target.parent) as part:
        checksum = sha256(part)
        os.replace(part, target)
    flush_names(target.parent)
    return checksum


def write_safely(file: Path, text: str) -> None:
    """Writes a text to a file and flushes it to disk."""
    file.write_text(text, encoding="utf-8")
    flush(file)


def flush(path: Path) -> None:
    """Flushes a file's content, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_names(folder: Path) -> None:
    """Flushes a folder's list of names after a change of it; only logs a failure, since the change has been made."""
    try:
        flush(folder)
    except OSError as error:
        log.error("%s cannot be flushed (%s); a power cut may undo the last change", folder, error)


def make_folder(folder: Path) -> None:
    """Creates a folder and its missing parents, and flushes their names to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)
