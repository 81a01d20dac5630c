"""Locks folders against other processes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.errors import ConflictError


@contextmanager
def locked_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Locks a folder against other processes for the duration of the block.

    Args:
        folder: the folder to lock.
        shared: whether other processes may hold a shared lock at the same time.

    Raises:
        ConflictError: another process has locked the folder.
        OSError: the folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(folder, "is in use by another backup or restore.", "Wait until it ends.") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):  # the disk supports no locks
                raise
        yield
    finally:
        os.close(handle)
