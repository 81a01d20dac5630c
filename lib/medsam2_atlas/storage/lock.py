"""A lock that allows one process and thread at a time to change a studies folder.

The lock is on the work folder, not on the index file, because the index may be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.errors import StorageError

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.003


class FolderLock:
    """A reentrant lock between processes and threads.

    `flock` locks out other processes and ends with the process. If the folder does not exist or does not support `flock` (some
    network drives), only other threads of this process are locked out.

    Args:
        folder: the folder to lock.
        wait_seconds: the max time to wait for another process, in s.
    """

    def __init__(self, folder: Path, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._folder, self._wait_seconds = folder, wait_seconds
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for the duration of the block.

        Raises:
            StorageError: another process has held the lock for too long.
        """
        with self._threads:
            handle = self._taken() if self._depth == 0 else None
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if handle is not None:
                    with contextlib.suppress(OSError):
                        fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may hold a copy: closing alone would not unlock
                    os.close(handle)

    def _taken(self) -> int | None:
        try:
            handle = os.open(self._folder, os.O_RDONLY)
        except OSError:
            return None
        until = time.monotonic() + self._wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(handle)
                    raise StorageError(
                        self._folder, f"has been in use by another program for {self._wait_seconds:.0f} s.", "Try again later."
                    ) from None
                time.sleep(_POLL_SECONDS)
            except OSError:
                os.close(handle)
                return None
