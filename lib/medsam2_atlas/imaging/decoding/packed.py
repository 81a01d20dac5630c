"""Unpacks compressed voxels, or counts their bytes without keeping them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.header import Header

_BLOCK = 1 << 20
_SLACK_BYTES = 64 << 20
"""Max bytes after the voxels; a file with more is refused."""


def check_length(file: Path, header: Header) -> None:
    """Checks that a file contains as many bytes of voxels as its header claims. ITK pads truncated files silently.

    Raises:
        InputError: the file is cut off, its packed part is damaged, or it unpacks to far more than its header claims.
        OSError: the file cannot be read.
    """
    if header.encoding == "text":
        return
    needed = header.data_bytes + (header.offset if header.whole_file_packed else 0)
    if header.encoding == "raw":
        length = file.stat().st_size - header.offset
    else:
        length = sum(map(len, _unpacked(file, header, needed + _SLACK_BYTES)))
    if length < needed:
        raise _cut_off(file, length, needed)


def unpack_into(file: Path, header: Header, target: memoryview) -> None:
    """Unpacks the voxels of a file that is packed as a whole, and checks their length.

    Args:
        file: the packed file.
        header: its checked header.
        target: receives the voxels; its length is their number of bytes.

    Raises:
        InputError: the file is cut off, its packed part is damaged, or it unpacks to far more than its header claims.
        OSError: the file cannot be read.
    """
    place = -header.offset
    for block in _unpacked(file, header, header.offset + header.data_bytes + _SLACK_BYTES):
        part = block[max(0, -place) :][: max(0, len(target) - max(0, place))]
        target[max(0, place) : max(0, place) + len(part)] = part
        place += len(block)
    if place < len(target):
        raise _cut_off(file, place + header.offset, len(target) + header.offset)


def _unpacked(file: Path, header: Header, limit: int) -> Iterator[bytes]:
    """Yields the unpacked bytes, `limit` at most, of a file or of its part after the header."""
    start: Callable[[], Any] = {"gzip": _gzip, "zlib": _zlib}[header.encoding]
    length, ended, packed = 0, True, start()
    try:
        with file.open("rb") as stream:
            stream.seek(0 if header.whole_file_packed else header.offset)
            while block := stream.read(_BLOCK):
                if ended:  # a gzip file may have several members, and zeros at its end
                    block = block.lstrip(b"\0") if length else block
                    if not block or (length and header.encoding != "gzip"):
                        continue
                    packed, ended = start(), False
                while True:
                    content = packed.decompress(block, _BLOCK << 2)
                    length += len(content)
                    if length > limit:
                        raise InputError(
                            file, "unpacks to far more than its header claims.", "Export the image again from its source."
                        )
                    yield content
                    ended = packed.eof
                    if ended:
                        block = packed.unused_data.lstrip(b"\0")
                        if not block or header.encoding != "gzip":
                            break
                        packed, ended = start(), False
                    else:
                        block = packed.unconsumed_tail
                        if not block:
                            break
    except (OSError, zlib.error, ValueError, EOFError) as error:
        kind = header.encoding
        raise InputError(file, f"is a broken {kind} file ({error}).", "Copy it again: it seems cut off.") from error
    if not ended:
        raise InputError(file, f"is a broken {header.encoding} file (its end is missing).", "Copy it again: it seems cut off.")


def _cut_off(file: Path, length: int, needed: int) -> InputError:
    return InputError(file, f"is cut off: it has {length} bytes of {needed}.", "Copy it again.")


def _gzip() -> Any:
    return zlib.decompressobj(31)


def _zlib() -> Any:
    return zlib.decompressobj(47)  # detects zlib or gzip from the data
