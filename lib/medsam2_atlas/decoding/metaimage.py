"""Reads MetaImage headers (`.mha`): lines `Key = Value`, the last of which is `ElementDataFile`."""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.decoding.header import (
    MAX_HEADER_BYTES,
    Header,
    broken,
    checked_sizes,
    elsewhere,
    text_lines,
    whole_numbers,
)

_LAST = b"elementdatafile"
_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG", "MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_PER_AXIS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_PER_AXES = ("TransformMatrix", "Rotation", "Orientation")


def metaimage_header(file: Path) -> Header:
    """Reads the header of a MetaImage file that holds its own voxels.

    MetaIO's parser reads numbers across lines and accepts a second data file further down. So this parser accepts each key once
    only, requires as many numbers in each list as there are axes, and ends the header at the line `ElementDataFile = LOCAL`:
    MetaIO then reads the same header.

    Raises:
        InputError: a malformed header, or one that names another file.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    place = start.lower().find(_LAST)
    end = start.find(b"\n", place)
    if place < 0 or end < 0:
        raise broken(file, "its header does not end with ElementDataFile")
    entries: dict[str, str] = {}
    for line in text_lines(file, start[:end]):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or len(key) > 200 or key in entries:
            raise broken(file, f"its header has the line {line[:40]!r}")
        entries[key] = value
    if list(entries)[-1] != "ElementDataFile":
        raise broken(file, "its header does not end with ElementDataFile")
    if entries["ElementDataFile"].upper() != "LOCAL":
        raise elsewhere(file)
    (axes,) = whole_numbers(file, "NDims", entries.get("NDims", ""), 1)
    sizes = checked_sizes(file, whole_numbers(file, "DimSize", entries.get("DimSize", "")))
    if len(sizes) != axes:
        raise broken(file, f"it has {axes} axes and {len(sizes)} sizes")
    for keys, count in ((_PER_AXIS, axes), (_PER_AXES, axes * axes)):
        for key in keys:
            if key in entries:
                _check_numbers(file, key, entries[key], count)
    (channels,) = whole_numbers(file, "channels", entries.get("ElementNumberOfChannels", "1"), 1)
    if entries.get("HeaderSize", "0") not in ("0", "-1") or not 1 <= channels <= 16:
        raise broken(file, "its header skips a part of the file, or it has more than 16 channels")
    if entries.get("ElementType") not in _BYTES:
        raise broken(file, f"its type is {entries.get('ElementType', '')[:20]!r}")
    if entries.get("BinaryData", "False").lower() in ("false", "0"):
        encoding = "text"
    else:
        encoding = "zlib" if entries.get("CompressedData", "False").lower() in ("true", "1") else "raw"
    return Header(sizes if channels == 1 else (channels, *sizes), _BYTES[entries["ElementType"]], end + 1, encoding)


def _check_numbers(file: Path, key: str, text: str, count: int) -> None:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise broken(file, f"its {key} is {text[:40]!r}") from error
    if len(numbers) != count:
        raise broken(file, f"its {key} is {text[:40]!r}")
