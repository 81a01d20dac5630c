"""Packs label maps for the transport to viewers and back: the voxels `[z, y, x]`, one byte each, as one gzip member (RFC 1952).

Packed label maps come from clients. They are unpacked in pieces, to exactly the expected number of voxels, so that a few bytes
cannot fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import MalformedError

_GZIP = 31
"""zlib's `wbits` for gzip with the largest window."""
_LEVEL = 1
"""zlib's fastest level. Label maps consist of long runs, so that higher levels gain little."""
_BLOCK = 1 << 20
_REMEDY = "Send the voxels of the whole volume as gzip, one byte each, x fastest."


def pack(labels: np.ndarray) -> bytes:
    """Returns a label map `[z, y, x]` uint8, packed; the same label map always gives the same bytes."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    planes = (packer.compress(np.ascontiguousarray(plane, np.uint8).data) for plane in labels)
    return b"".join((*planes, packer.flush()))


def unpack(file: Path, shape: tuple[int, int, int], allowed: Collection[int], start: int = 0) -> np.ndarray:
    """Returns the label map in a packed file: `[z, y, x]` uint8.

    Args:
        file: the packed label map.
        shape: the expected shape (z, y, x), in voxels.
        allowed: the organ numbers that it may contain besides 0.
        start: the byte of the file at which the packed label map begins.

    Raises:
        MalformedError: the file is not one complete gzip member of exactly these voxels, or contains other numbers.
        OSError: the file cannot be read.
    """
    labels = np.empty(int(np.prod(shape, dtype=np.int64)), np.uint8)
    unpacker, filled = zlib.decompressobj(_GZIP), 0
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            while not unpacker.eof:
                block = unpacker.unconsumed_tail or stream.read(_BLOCK)
                found = unpacker.decompress(block, _BLOCK)
                if filled + len(found) > len(labels):
                    raise MalformedError("label map", f"has more than {len(labels)} voxels {_sizes(shape)}.", _REMEDY)
                labels[filled : filled + len(found)] = np.frombuffer(found, np.uint8)
                filled += len(found)
                if not block and not found:
                    raise MalformedError("label map", "is not complete gzip.", _REMEDY)
            trailing = unpacker.unused_data or stream.read(1)
    except zlib.error as error:
        raise MalformedError("label map", f"is not valid gzip ({error}).", _REMEDY) from error
    if trailing:
        raise MalformedError("label map", "is followed by other data.", _REMEDY)
    if filled != len(labels):
        raise MalformedError("label map", f"has {filled} voxels instead of {len(labels)} {_sizes(shape)}.", _REMEDY)
    _check_values(labels, allowed)
    return labels.reshape(shape)


def _check_values(labels: np.ndarray, allowed: Collection[int]) -> None:
    seen = np.zeros(256, bool)
    for begin in range(0, len(labels), _BLOCK):  # in pieces: counting takes eight bytes per voxel
        seen |= np.bincount(labels[begin : begin + _BLOCK], minlength=256) > 0
    unknown = sorted({*np.flatnonzero(seen).tolist()} - {0, *allowed})
    if unknown:
        raise MalformedError(
            "label map", f"contains values {unknown[:8]} that are not in the organ table.", "Use the numbers that /info lists."
        )


def _sizes(shape: tuple[int, int, int]) -> str:
    return f"({' x '.join(map(str, shape))})"
