"""Reads MetaImage headers (`.mha`): lines `Key = Value`, the last of which gives the location of the voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medsam2_atlas.imaging.decoding.grids import Grid, checked_grid
from medsam2_atlas.imaging.decoding.header import (
    MAX_HEADER_BYTES,
    Header,
    broken,
    checked_sizes,
    decimals,
    detached_header,
    image_axes,
    not_a,
    text_lines,
    whole_numbers,
)

_LAST = "ElementDataFile"
_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG", "MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_SPACING = ("ElementSpacing", "ElementSize")
_ORIGIN = ("Origin", "Offset", "Position")
_AXES = ("TransformMatrix", "Rotation", "Orientation")
"""Keys with the same meaning; the first one present is used, as in MetaIO."""
_UNITS = {"um": 0.001, "mm": 1.0, "cm": 10.0}
_FLAGS = ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def metaimage_header(file: Path) -> Header:
    """Reads the header of a MetaImage file that contains its own voxels.

    Returns:
        The header. Its `canonical` text contains only fields that describe the voxels, written from the parsed values, without
        the grid and without axes of size 1 beyond the third.

    Raises:
        InputError: the header is malformed, or names another file.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    entries, end = _entries(file, start)
    if entries[_LAST].upper() != "LOCAL":
        raise detached_header(file)
    (axes,) = whole_numbers(file, "NDims", entries.get("NDims", ""), 1)
    sizes = checked_sizes(file, whole_numbers(file, "DimSize", entries.get("DimSize", "")))
    if len(sizes) != axes:
        raise broken(file, f"it has {axes} axes and {len(sizes)} sizes")
    (channels,) = whole_numbers(file, "ElementNumberOfChannels", entries.get("ElementNumberOfChannels", "1"), 1)
    if entries.get("HeaderSize", "0") not in ("0", "-1") or not 1 <= channels <= 16:
        raise broken(file, "its header skips a part of the file, or it has more than 16 channels")
    kind = entries.get("ElementType", "")
    if kind not in _BYTES:
        raise broken(file, f"its type is {kind[:20]!r}")
    flags = {key: entries[key].lower() in ("true", "1") for key in _FLAGS if key in entries}
    image = image_axes(sizes)
    lines = [f"NDims = {len(image)}", f"DimSize = {' '.join(map(str, image))}", f"ElementNumberOfChannels = {channels}"]
    lines += [f"{key} = {value}" for key, value in flags.items()]
    # MetaIO returns uninitialised memory if the voxels unpack to too few bytes; `packed` checks their number before.
    lines += [f"CompressedDataSize = {file.stat().st_size - end}"] if flags.get("CompressedData") else []
    text = "\n".join(["ObjectType = Image", *lines, f"ElementType = {kind}", f"{_LAST} = LOCAL", ""])
    return Header(
        sizes=sizes if channels == 1 else (channels, *sizes),
        value_bytes=_BYTES[kind],
        offset=end,
        encoding="text" if not flags.get("BinaryData") else "zlib" if flags.get("CompressedData") else "raw",
        canonical=text.encode(),
        axes=image,
        component_kind="rgb-color" if channels in (3, 4) and _BYTES[kind] == 1 else "",
        grid=_grid(file, entries, sizes) if len(image) == 3 else None,
    )


def _grid(file: Path, entries: Mapping[str, str], sizes: Sequence[int]) -> Grid:
    """Returns the grid of the first three axes. The rows of `TransformMatrix` are the directions of the axes."""
    count = len(sizes)

    def numbers(keys: Sequence[str], length: int, default: Sequence[float]) -> Sequence[float]:
        found = [decimals(file, key, entries[key], length) for key in keys if key in entries]
        return found[0] if found else default

    spacing, origin = numbers(_SPACING, count, [1.0] * count), numbers(_ORIGIN, count, [0.0] * count)
    rows = np.array(numbers(_AXES, count * count, np.eye(count).ravel().tolist())).reshape(count, count)
    unit = _UNITS.get(entries.get("DistanceUnits", "").lower(), 1.0)
    return checked_grid(file, sizes[:3], spacing[:3], origin[:3], rows[:3, :3].T, unit)


def _entries(file: Path, start: bytes) -> tuple[dict[str, str], int]:
    """Returns the values by key, and the first byte of the voxels. If a key appears twice, its last value is used."""
    entries: dict[str, str] = {}
    place = 0
    while (end := start.find(b"\n", place)) >= 0:
        (line,) = text_lines(file, start[place:end].removesuffix(b"\r"))
        place = end + 1
        key, separator, value = line.partition("=" if "=" in line else ":")
        if not separator:
            if line.strip():
                raise broken(file, f"its header has the line {line[:40]!r}")
            continue
        entries[key.strip(" \t")] = value.strip(" \t")
        if _LAST in entries:
            return entries, place
    if b"ObjectType" not in start[:MAX_HEADER_BYTES]:
        raise not_a(file, "a MetaImage file", start)
    raise broken(file, f"its header does not end with {_LAST}")
