"""Reads NIfTI headers (`.nii`, `.nii.gz`), versions 1 and 2, in either byte order.

ITK never opens a NIfTI file: `nifti_voxels` decodes its voxels with NumPy. For files that ITK 5.4 reads, grid and values are
the same as ITK's; `tests/imaging/decoding/test_nifti_files.py` compares them.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.grids import Grid
from medsam2_atlas.imaging.decoding.header import Header, broken, checked_sizes, detached_header, grey_values, image_axes, not_a
from medsam2_atlas.imaging.decoding.nifti_grid import NiftiPlace, nifti_grid

_LENGTHS = {348: (b"n+1\0", b"ni1\0"), 540: (b"n+2\0", b"ni2\0")}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: 3, 2304: 4}
_COMPLEX = {32: 8, 1792: 16, 2048: 32}
_OTHER = {0: "of an unknown type", 1: "of one bit", 1536: "of 128 bits"}
_MAX_EXTENSION_BYTES = 64 << 20
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class NiftiHeader(Header):
    """The checked header of a NIfTI file.

    Attributes:
        dtype: NumPy's name of the values' type in the file, with the byte order.
        slope: factor of the values; 1 if the header has none.
        intercept: number that is added after multiplying; 0 if the header has none.
    """

    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0


def nifti_header(file: Path) -> NiftiHeader:
    """Reads the header of a NIfTI file that contains its own voxels. The content, not the suffix, decides whether it is packed.

    Raises:
        InputError: the header is malformed or belongs to a pair of files, the values are not grey values, or the grid is
            unusable.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(4096)
    packed, named = start.startswith(_GZIP), file.name.lower().endswith(".gz")
    content = _unpacked(file, start) if packed else start
    if packed and content.startswith(_GZIP):
        raise InputError(file, "is packed by gzip twice.", "Unpack it once.")
    remarks: tuple[str, ...] = ()
    if packed != named:
        state = "packed by gzip, though its name ends in .nii" if packed else "not packed, though its name ends in .gz"
        remarks = (f"The file is {state}: other programs may refuse it.",)
    for order in "<>":
        length = struct.unpack_from(f"{order}i", content)[0] if len(content) >= 4 else 0
        if length in _LENGTHS:
            if len(content) < length:
                raise InputError(file, "cannot be read as an image: it is cut off within its header.", "Copy it again.")
            return _read(file, content, order, length, packed, remarks)
    if not packed and named and start[128:132] != b"DICM":
        raise InputError(file, "is a broken gzip file (it does not begin like one).", "Copy it again.")
    if len(content) < min(_LENGTHS):
        raise InputError(file, "cannot be read as an image: it is cut off within its header.", "Copy it again.")
    raise not_a(file, "a NIfTI file", content)


def _read(file: Path, content: bytes, order: str, length: int, packed: bool, remarks: tuple[str, ...]) -> NiftiHeader:
    alone, paired = _LENGTHS[length]

    def numbers(codes: str, first: int, second: int) -> tuple[float, ...]:
        """Returns fields of the header. codes: types in version 1 and version 2; first, second: offsets in these versions."""
        old, new = codes.split()
        return struct.unpack_from(order + (old if length == 348 else new), content, first if length == 348 else second)

    magic = content[344:348] if length == 348 else content[4:8]
    dims = [int(n) for n in numbers("8h 8q", 40, 16)]
    kind, bits = (int(n) for n in numbers("2h 2h", 70, 12))
    (offset,) = numbers("f q", 108, 168)
    if magic == paired:
        raise detached_header(file)
    if magic != alone or not 1 <= dims[0] <= 7:
        raise not_a(file, "a NIfTI file", b"")
    sizes = checked_sizes(file, image_axes(dims[1 : dims[0] + 1]))
    grey_values(file, 1, "rgb-color" if kind in _COLOURS else "complex" if kind in _COMPLEX else "")
    if kind in _OTHER:
        problem = f"contains values {_OTHER[kind]}, which are not supported."
        raise InputError(file, problem, "Export it as numbers of 8 to 64 bits.")
    if kind not in _TYPES or bits not in (0, 8 * int(_TYPES[kind][1])):
        raise broken(file, f"its data type is {kind} of {bits} bits")
    if len(sizes) == 5 and sizes[3] == 1:
        grey_values(file, sizes[4])
    if not math.isfinite(offset) or not (offset == 0 or length <= offset <= _MAX_EXTENSION_BYTES):
        raise broken(file, f"its voxels begin at {offset}")
    slope, intercept = numbers("2f 2d", 112, 176)
    if slope == 0 and math.isfinite(intercept) and intercept != 0:
        remarks += (f"Its header has intercept {intercept:g} but slope 0, which means that values are not scaled.",)
    slope, intercept = _scale(file, slope, intercept)
    pixdim, rows, forms = numbers("8f 8d", 76, 104), numbers("12f 12d", 280, 400), numbers("2h 2i", 252, 344)
    units = numbers("B i", 123, 500)
    place = NiftiPlace(
        pixdim, (int(forms[0]), int(forms[1])), numbers("6f 6d", 256, 352), rows, int(units[0]) & 7, double=length == 540
    )
    grid: Grid | None = nifti_grid(file, sizes, place) if len(sizes) == 3 else None
    return NiftiHeader(
        sizes=sizes,
        axes=sizes,
        value_bytes=int(_TYPES[kind][1]),
        offset=int(offset) or length + 4,
        encoding="gzip" if packed else "raw",
        whole_file_packed=packed,
        grid=grid,
        remarks=remarks,
        dtype=order + _TYPES[kind],
        slope=slope,
        intercept=intercept,
    )


def _scale(file: Path, slope: float, intercept: float) -> tuple[float, float]:
    """Returns slope and intercept of the values. A slope of 0 or NaN means no scaling, as in NIfTI's own library."""
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise broken(file, f"its values are scaled by {slope:.4g} and shifted by {intercept}")
    return slope, intercept


def _unpacked(file: Path, start: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(start, 1024)
    except zlib.error as error:
        raise InputError(file, f"is a broken gzip file ({error}).", "Copy it again: it seems cut off.") from error
