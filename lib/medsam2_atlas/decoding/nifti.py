"""Reads NIfTI headers (`.nii`, `.nii.gz`), versions 1 and 2, in either byte order."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

from medsam2_atlas.decoding.header import Header, broken, checked_sizes, elsewhere
from medsam2_atlas.errors import InputError

_LENGTHS = {348: (b"n+1\0", b"ni1\0"), 540: (b"n+2\0", b"ni2\0")}
_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 2304: 4}
_MAX_EXTENSION_BYTES = 64 << 20
_GZIP = b"\x1f\x8b"


def nifti_header(file: Path) -> Header:
    """Reads the header of a NIfTI file that holds its own voxels.

    Raises:
        InputError: a malformed header, or one of a pair of files.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(4096)
    packed = start.startswith(_GZIP)
    if packed and not file.name.lower().endswith(".gz"):
        raise broken(file, "it is packed, but its name does not end in .nii.gz")
    if not packed and file.name.lower().endswith(".gz"):
        raise InputError(file, "is a broken gzip file (it does not begin as one).", "Copy it again.")
    content = _unpacked(file, start) if packed else start
    if len(content) < min(_LENGTHS):
        raise InputError(file, "cannot be read as an image: it is cut off within its header.", "Copy it again.")
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", content)
        if length in _LENGTHS and len(content) >= length:
            return _read(file, content, order, length, packed)
    raise broken(file, "it is not a NIfTI header")


def _read(file: Path, content: bytes, order: str, length: int, packed: bool) -> Header:
    alone, paired = _LENGTHS[length]
    if length == 348:
        magic, dims = content[344:348], struct.unpack_from(f"{order}8h", content, 40)
        kind, bits = struct.unpack_from(f"{order}2h", content, 70)
        (offset,) = struct.unpack_from(f"{order}f", content, 108)
    else:
        magic, dims = content[4:8], struct.unpack_from(f"{order}8q", content, 16)
        kind, bits = struct.unpack_from(f"{order}2h", content, 12)
        (offset,) = struct.unpack_from(f"{order}q", content, 168)
    if magic == paired:
        raise elsewhere(file)
    if magic != alone or not 1 <= dims[0] <= 7:
        raise broken(file, "it is not a NIfTI header")
    sizes = list(dims[1 : dims[0] + 1])
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if kind not in _BYTES or bits not in (0, 8 * _BYTES[kind]):
        raise broken(file, f"its data type is {kind} of {bits} bits")
    if not math.isfinite(offset) or not (offset == 0 or length <= offset <= _MAX_EXTENSION_BYTES):
        raise broken(file, f"its voxels begin at {offset}")
    begin = int(offset) or length + 4
    return Header(checked_sizes(file, sizes), _BYTES[kind], begin, "gzip" if packed else "raw", whole_file_packed=packed)


def _unpacked(file: Path, start: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(start, 1024)
    except zlib.error as error:
        raise InputError(file, f"is a broken gzip file ({error}).", "Copy it again: it seems cut off.") from error
