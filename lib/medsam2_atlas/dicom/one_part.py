"""The body of a STOW-RS request with one object, which is read from its file while it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

BOUNDARY = "medsam2-atlas-0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1"
KIND = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
"""The body's content type."""
_HEAD = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
_END = f"\r\n--{BOUNDARY}--\r\n".encode()
_BLOCK = 1 << 20


class OnePart:
    """A multipart message of known length with one object, for `requests`.

    Args:
        stream: the open DICOM file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._size = stream, os.fstat(stream.fileno()).st_size
        self._pieces = iter(self)

    def __len__(self) -> int:
        """Returns the number of bytes, so that the request has a length: not every server accepts one without."""
        return len(_HEAD) + self._size + len(_END)

    def __iter__(self) -> Iterator[bytes]:
        yield _HEAD
        while block := self._stream.read(_BLOCK):
            yield block
        yield _END

    def read(self, _: int = -1) -> bytes:
        """Returns the next piece of at most 1 MiB; nothing at the end."""
        return next(self._pieces, b"")
