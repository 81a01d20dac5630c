"""Stores file contents in a backup. Each content is stored once, in a file named by the content's SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import opened
from medsam2_atlas.storage import flush

_BLOCK = 1 << 20
_BATCH, _FLUSHES = 256, 16
"""The number of contents that are flushed together, and the number of parallel flushes."""
_SMALL = 1 << 24
"""Size in bytes below which a content's checksum is computed and looked up before the content is written."""


class Contents:
    """The file contents in the folder of a backup. Only the user who writes them may read them.

    Args:
        path: the folder of the backup.

    Attributes:
        added: the number of new contents.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.objects, self.added = path, path / "objects", 0
        self._pending: dict[str, Path] = {}

    @contextmanager
    def writes(self) -> Iterator[None]:
        """Explains a disk error that occurs in the block.

        Raises:
            StorageError: the backup cannot be written.
        """
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            problem = "is full" if full else f"cannot be written to ({error.strerror or error})"
            remedy = "The copied files stay, and the next backup resumes from them."
            raise StorageError(self.path, f"{problem}.", f"{'Free space' if full else 'Check the disk'}. {remedy}") from error

    def content(self, sha256: str) -> Path:
        """Returns the file of a content. The file may be missing."""
        return self.objects / sha256[:2] / sha256

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Returns whether the backup contains a content; checks the file's name and, if given, its size in bytes."""
        found = self.size(sha256)
        return found is not None and size in (None, found)

    def size(self, sha256: str) -> int | None:
        """Returns the size of a content's file in bytes; None if the file is missing."""
        try:
            state = self.content(sha256).lstat()
        except OSError:
            return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def intact(self, sha256: str) -> bool:
        """Returns whether the file of a content exists and has its checksum."""
        try:
            with opened(self.content(sha256)) as stream:
                return _digest(stream)[0] == sha256
        except OSError:
            return False

    def add(self, stream: BinaryIO, expected: str = "") -> tuple[str, int]:
        """Copies a content to the backup if the backup does not contain it yet. `commit` makes the copy permanent.

        Args:
            stream: the stream to read; it must be seekable.
            expected: the probable SHA-256. A large content that has it and exists already is not copied.

        Returns:
            The SHA-256 of the content and its size in bytes.

        Raises:
            OSError: the stream cannot be read.
            StorageError: the copy cannot be written.
        """
        head = stream.read(_SMALL)
        found = (hashlib.sha256(head).hexdigest(), len(head))
        if len(head) == _SMALL and expected and self.has(expected):
            stream.seek(0)
            found = _digest(stream)
        if (self.has(*found) or found[0] in self._pending) and (len(head) < _SMALL or found[0] == expected):
            return found
        stream.seek(0)
        part = self.objects / f".part-{os.urandom(6).hex()}"
        try:
            with self.writes():
                target = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            with target:
                digest, size = _digest(stream, self._writer(target))
            if not self.has(digest, size) and digest not in self._pending:
                self._pending[digest] = part
            if len(self._pending) >= _BATCH or size >= _SMALL:
                self.commit()
            return digest, size
        finally:
            if part not in self._pending.values():
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)

    def commit(self) -> None:
        """Flushes the new contents to disk and gives them their final names. Parallel flushes are much faster.

        Raises:
            StorageError: the contents cannot be written.
        """
        if not self._pending:
            return
        with self.writes():
            with ThreadPoolExecutor(_FLUSHES) as pool:
                for _ in pool.map(flush, self._pending.values()):
                    pass
            folders = {self.content(digest).parent for digest in self._pending}
            for folder in folders:
                folder.mkdir(mode=0o700, exist_ok=True)
            for digest in list(self._pending):
                os.replace(self._pending[digest], self.content(digest))
                del self._pending[digest]
                self.added += 1
            for folder in (*folders, self.objects):
                flush(folder)

    def drop_uncommitted(self) -> None:
        """Removes the contents that were added since the last `commit`."""
        for part in self._pending.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self._pending.clear()

    def _writer(self, target: BinaryIO) -> Callable[[bytes], None]:
        def write(block: bytes) -> None:
            with self.writes():
                target.write(block)
                if len(block) < _BLOCK:  # the last block: flushing raises the error of a full disk here
                    target.flush()

        return write


def _digest(stream: BinaryIO, use: Callable[[bytes], object] = len) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while True:
        block = stream.read(_BLOCK)
        use(block)
        if not block:
            return digest.hexdigest(), size
        digest.update(block)
        size += len(block)
