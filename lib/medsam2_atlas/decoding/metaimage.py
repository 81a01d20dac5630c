"""MetaImage headers (`.mha`): lines `Key = Value`, the last of which says where the voxels are."""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.decoding.header import (
    MAX_HEADER_BYTES,
    Header,
    broken,
    checked_sizes,
    decimals,
    elsewhere,
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
_PER_AXIS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin")
_PER_AXES = ("TransformMatrix", "Rotation", "Orientation")
_FLAGS = ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def metaimage_header(file: Path) -> Header:
    """Reads the header of a MetaImage file that holds its own voxels.

    Returns:
        The header. Its `canonical` text has only what describes the voxels, written anew from the values read here.

    Raises:
        InputError: the header is malformed, or names another file.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    entries, end = _entries(file, start)
    if entries[_LAST].upper() != "LOCAL":
        raise elsewhere(file)
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
    lines = [f"NDims = {axes}", f"DimSize = {' '.join(map(str, sizes))}", f"ElementNumberOfChannels = {channels}"]
    lines += [f"{key} = {value}" for key, value in flags.items()]
    for keys, count in ((_PER_AXIS, axes), (_PER_AXES, axes * axes)):
        lines += [f"{key} = {decimals(file, key, entries[key], count)}" for key in keys if key in entries]
    # MetaIO gives memory that nobody has written to where less than this unpacks; `packed` checks that it does not.
    lines += [f"CompressedDataSize = {file.stat().st_size - end}"] if flags.get("CompressedData") else []
    text = "\n".join(["ObjectType = Image", *lines, f"ElementType = {kind}", f"{_LAST} = LOCAL", ""])
    encoding = "text" if not flags.get("BinaryData") else "zlib" if flags.get("CompressedData") else "raw"
    return Header(sizes if channels == 1 else (channels, *sizes), _BYTES[kind], end, encoding, canonical=text.encode())


def _entries(file: Path, start: bytes) -> tuple[dict[str, str], int]:
    """Returns values by key, and where the voxels begin. Keys and values end at the line; the last one of a key counts."""
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
    raise broken(file, f"its header does not end with {_LAST}")
