"""Writes files in one step, so that a reader sees either the old or the new content; reads regular files only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from medsam2_atlas.base.errors import StorageError


@contextmanager
def opened(file: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """Opens a regular file for reading, and yields it. It refuses a pipe, which could block its reader forever.

    Args:
        file: the file to open.
        follow: whether it may be a link.

    Raises:
        OSError: the path is not a regular file, or cannot be opened.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        yield stream


def text_of(file: Path) -> str:
    """Returns the text of a regular file.

    Raises:
        OSError: the path is not a regular file, or cannot be read.
        UnicodeDecodeError: the file is not UTF-8.
    """
    with opened(file, follow=True) as stream:
        return stream.read().decode()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a path beside `target`, with its suffixes, that replaces the target when the block ends without an error.

    The block creates a file or a folder at this path. If the block fails, the path is removed and the target is unchanged.

    Raises:
        StorageError: the folder of the target does not exist.
    """
    if not target.parent.is_dir():
        raise StorageError(target, "its folder does not exist.", f"Create {target.parent} first.")
    part = _beside(target, "part")
    try:
        yield part
        if part.is_dir() and target.is_dir() and not target.is_symlink():
            old = _beside(target, "old")
            target.rename(old)
            try:
                part.rename(target)
            except OSError:
                old.rename(target)
                raise
            remove_folder(old, target.parent)
        else:
            os.replace(part, target)
    finally:
        if part.is_dir():
            remove_folder(part, target.parent)
        else:
            part.unlink(missing_ok=True)


def remove_folder(folder: Path, below: Path) -> None:
    """Removes a folder and its contents; does nothing if it does not exist.

    This is the only recursive removal of the project, so that a name from outside can never choose the folder that is erased.

    Args:
        folder: the folder to remove.
        below: a parent folder that this process owns. After resolving links, `folder` must lie strictly below it.

    Raises:
        StorageError: the folder is a link, or is not below `below`.
        OSError: a file in the folder cannot be removed.
    """
    if folder.is_symlink() or below.resolve() not in folder.resolve().parents:
        raise StorageError(folder, f"is not removed: it is not below {below}.", "Remove it by hand if it is not needed.")
    if folder.is_dir():
        shutil.rmtree(folder)


def _beside(target: Path, kind: str) -> Path:
    """Returns an unused short path in the target's folder, with its suffix. The target's name may already have 255 bytes."""
    suffix = "".join(target.suffixes[-2:])[-32:]
    return target.with_name(f".{kind}-{uuid.uuid4().hex[:8]}{suffix}")


def write_json(content: Any, target: Path) -> None:
    """Writes content as indented JSON into a file, in one step."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    with file.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
    """Returns the SHA-256 of the rest of an open file, as hexadecimal digits."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
