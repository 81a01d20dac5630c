"""Writes multipart messages of DICOMweb (`multipart/related`) to disk while they arrive; each part becomes a file.

Viewers store objects this way (STOW-RS), and a PACS sends them this way (WADO-RS). Memory use does not depend on the size of
the message; the number of parts and bytes is limited.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from medsam2_atlas.base.errors import InputError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PREAMBLE = 8192
_REMEDY = "Send multipart/related; type=application/dicom."


@dataclass(frozen=True)
class MultipartLimits:
    """The limits of a message.

    Attributes:
        parts: the max number of parts.
        part_bytes: the max number of bytes of a part.
        total_bytes: the max number of bytes of the message.
    """

    parts: int
    part_bytes: int
    total_bytes: int


def boundary_of(content_type: str) -> bytes:
    """Returns the boundary in a Content-Type.

    Raises:
        InputError: the message is not a multipart message.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not kind.lower().startswith(b"multipart/") or not boundary:
        raise InputError("message", "is not a multipart message.", _REMEDY)
    return boundary


class MultipartFiles:
    """Writes the parts of one message into a folder as `00000.dcm`, `00001.dcm` and so on.

    Use it as a context manager, which closes the current file. `finish` checks that the message is complete.

    Args:
        folder: an existing, empty folder.
        content_type: the Content-Type of the message.
        limits: the limits of the message.

    Raises:
        InputError: the message is not a multipart message.
    """

    def __init__(self, folder: Path, content_type: str, limits: MultipartLimits) -> None:
        boundary = boundary_of(content_type)
        self._folder, self._limits = folder, limits
        self._start, self._before = b"--" + boundary, b""
        self._begun, self._read, self._part_bytes = False, 0, 0
        self._stream: BinaryIO | None = None
        self._files: list[Path] = []
        callbacks: MultipartCallbacks = {"on_part_begin": self._open, "on_part_data": self._data, "on_part_end": self._close}
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise InputError("message", f"is not a multipart message ({error}).", _REMEDY) from error

    def __enter__(self) -> MultipartFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def write(self, chunk: bytes) -> None:
        """Processes the next bytes of the message.

        Raises:
            InputError: the message is malformed, or exceeds a limit.
            OSError: a part cannot be written.
        """
        self._read += len(chunk)
        if self._read > self._limits.total_bytes:
            raise InputError("message", f"is larger than {self._limits.total_bytes / 1e6:.0f} MB.", "Send less at once.")
        if not self._begun:
            chunk = self._without_preamble(chunk)
        try:
            if chunk:
                self._parser.write(chunk)
        except FormParserError as error:
            raise InputError("message", f"is a malformed multipart message ({error}).", _REMEDY) from error

    def finish(self) -> list[Path]:
        """Returns the files. Call it after the last bytes of the message.

        Raises:
            InputError: the end of the message is missing.
        """
        self._close()
        if self._parser.state != MultipartState.END:
            raise InputError("message", "is cut off: its end is missing.", "Send it again.")
        return self._files

    def _without_preamble(self, chunk: bytes) -> bytes:
        """Returns the bytes from the first boundary on; ignores the preamble before it (RFC 2046, 5.1.1)."""
        self._before += chunk
        found = self._before.find(self._start)
        if found < 0:
            if len(self._before) > _MAX_PREAMBLE:
                raise InputError("message", "does not begin with its boundary.", _REMEDY)
            return b""
        self._begun = True
        chunk, self._before = self._before[found:], b""
        return chunk

    def _open(self) -> None:
        if len(self._files) >= self._limits.parts:
            raise InputError("message", f"contains more than {self._limits.parts} objects.", "Send fewer at once.")
        file = self._folder / f"{len(self._files):05d}.dcm"
        self._stream, self._part_bytes = file.open("xb"), 0
        self._files.append(file)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        if self._part_bytes > self._limits.part_bytes:
            raise InputError("object", f"is larger than {self._limits.part_bytes / 1e6:.0f} MB.", "Send a smaller one.")
        assert self._stream is not None
        self._stream.write(memoryview(data)[start:end])

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
