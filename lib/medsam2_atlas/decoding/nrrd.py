"""Reads NRRD headers (`.nrrd`): a magic line, lines `field: value`, and an empty line before the voxels."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from medsam2_atlas.decoding.header import (
    MAX_HEADER_BYTES,
    Header,
    broken,
    checked_sizes,
    elsewhere,
    not_a,
    text_lines,
    whole_numbers,
)
from medsam2_atlas.decoding.nrrd_grid import nrrd_grid, nrrd_kinds, spatial_axes

_MAGIC = re.compile(r"NRRD000[1-6]")
_ENCODINGS = {
    **dict.fromkeys(("raw",), "raw"),
    **dict.fromkeys(("gz", "gzip"), "gzip"),
    **dict.fromkeys(("bz2", "bzip2"), "bzip2"),
    **dict.fromkeys(("txt", "text", "ascii", "hex"), "text"),
}
_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "uint64", "uint64_t", "double"), 8),
}


def nrrd_header(file: Path) -> Header:
    """Reads the header of an NRRD file that holds its own voxels.

    Field names are compared without blanks and in lower case, as NRRD's own library does.

    Returns:
        The header. Its `canonical` text has only what describes the voxels, without the grid and without single axes beyond
        the third.

    Raises:
        InputError: a malformed header, or one that names other files.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    if not start.startswith(b"NRRD"):
        raise not_a(file, "an NRRD file", start)
    ends = [at + len(gap) for gap in (b"\n\n", b"\n\r\n") if (at := start.find(gap)) >= 0]
    if not ends:
        if re.search(rb"(?i)\ndata ?file\s*:", start):
            raise elsewhere(file)
        raise broken(file, "no empty line ends its header")
    magic, *lines = text_lines(file, start[: min(ends)].rstrip(b"\r\n"))
    if not _MAGIC.fullmatch(magic):
        raise broken(file, "it does not begin with NRRD")
    fields = _fields(file, lines)
    (axes,) = whole_numbers(file, "dimension", fields.get("dimension", ""), 1)
    sizes = checked_sizes(file, whole_numbers(file, "sizes", fields.get("sizes", "")))
    if len(sizes) != axes:
        raise broken(file, f"it has {axes} axes and {len(sizes)} sizes")
    kind, encoding = " ".join(fields.get("type", "").lower().split()), fields.get("encoding", "").lower()
    if kind not in _BYTES or encoding not in _ENCODINGS:
        raise broken(file, f"its type is {kind[:20]!r}, its encoding {encoding[:20]!r}")
    kinds = nrrd_kinds(file, fields, axes)
    image = spatial_axes(file, fields, sizes, kinds)
    shown = [n for n in range(axes) if n in image or sizes[n] > 1]
    plain = _BYTES[kind] == 1 or _ENCODINGS[encoding] == "text"
    endian = fields.get("endian", "little" if plain else "").lower()
    if endian not in ("little", "big"):
        raise broken(file, f"its endian is {endian[:20]!r}")
    canonical = ["NRRD0005", f"type: {kind}", f"dimension: {len(shown)}", f"sizes: {' '.join(str(sizes[n]) for n in shown)}"]
    canonical += [f"encoding: {encoding}", f"endian: {endian}", f"kinds: {' '.join(kinds[n] for n in shown)}", "", ""]
    header = Header(sizes, _BYTES[kind], min(ends), _ENCODINGS[encoding], canonical="\n".join(canonical).encode())
    grid = nrrd_grid(file, fields, sizes, image) if len(image) == 3 else None
    several = "".join(kinds[n].lower() for n in shown if kinds[n] != "domain")
    header = replace(header, axes=tuple(sizes[n] for n in image), component_kind=several, grid=grid)
    skipped = (fields.get("lineskip", "0"), fields.get("byteskip", "0"))
    if skipped == ("0", "-1") and header.encoding == "raw":  # the voxels are the end of the file
        header = replace(header, offset=max(header.offset, file.stat().st_size - header.data_bytes))
    elif skipped != ("0", "0"):
        raise broken(file, "its header skips a part of the file")
    return header


def _fields(file: Path, lines: list[str]) -> dict[str, str]:
    """Returns the values by field, without comments and key/value pairs (`key:=value`)."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if colon and value.startswith("="):
            continue
        field = "".join(name.lower().split())
        if field == "datafile":
            raise elsewhere(file)
        if not colon or not field or field in fields:
            raise broken(file, f"its header has the line {line[:40]!r}")
        fields[field] = value.strip()
    return fields
