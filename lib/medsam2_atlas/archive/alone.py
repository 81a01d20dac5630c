"""Keeps other processes out of folders."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.errors import ConflictError


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
