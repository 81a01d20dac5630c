"""Opens files that others may have put there, and keeps other processes out of folders."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medsam2_atlas.errors import ConflictError


@contextmanager
def alone_in(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps other processes out of a folder while the block runs; with `shared`, others that share it may enter.

    Raises:
        ConflictError: another process is in it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(folder, "is in use by another backup or restore.", "Wait for it.") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):  # a disk without locks
                raise
        yield
    finally:
        os.close(handle)


@contextmanager
def opened(file: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """Opens a regular file for reading. follow: whether it may be a link.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        yield stream


def text_of(file: Path) -> str:
    """Returns the text of a regular file.

    Raises:
        OSError: it is something else, or cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    with opened(file, follow=True) as stream:
        return stream.read().decode()
