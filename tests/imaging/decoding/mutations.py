"""Creates image files with random changes to their headers, like those of broken or hostile programs."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from series_files import write_series

FORMATS = (".mha", ".nrrd", ".nii", ".nii.gz", ".dcm")
SHAPE = (6, 8, 10)
_NUMBERS = (b"-1", b"0", b"1e308", b"nan", b"2147483647", b"-2147483648", b"4294967296", b"99999999999999999999", b"0.0", b"")
_LINES = {
    ".mha": (
        b"ElementDataFile = /etc/passwd\n",
        b"ElementDataFile = LIST\n",
        b"ElementDataFile = /dev/zero\n",
        b"ElementDataFile = %d.raw 1 3 1\n",
        b"elementdatafile : /etc/passwd\n",
        "\u00a0ElementDataFile = LOCAL\nElementDataFile = /etc/passwd\n".encode(),
        "ElementDataFile\u3000= LOCAL\nElementDataFile = /dev/zero\n".encode(),
        b"ElementDataFile = LoCaL\n",
        b"NDims = -1\n",
        b"HeaderSize = 99999999\n",
        b"CompressedData = True\n",
        b"ElementNumberOfChannels = 100000\n",
    ),
    ".nrrd": (
        b"data file: /etc/passwd\n",
        b"datafile: /dev/zero\n",
        b"Data File: LIST\n",
        b"data file: %d.raw 1 3 1\n",
        b"byte skip: -1\n",
        b"line skip: 99999999\n",
        b"dimension: -1\n",
        b"encoding: gzip\n",
        b"space directions: (nan,0,0) none (0,0)\n",
    ),
}
_INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x0D, 0x20, 0x2F)


def originals(folder: Path) -> dict[str, bytes]:
    """Returns a small valid image in each format, by suffix; the DICOM file is one slice."""
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(SHAPE) % 16)
    found = {}
    for suffix in FORMATS[:4]:
        sitk.WriteImage(image, str(folder / f"original{suffix}"))
        found[suffix] = (folder / f"original{suffix}").read_bytes()
    found[".dcm"] = write_series(folder / "series", image)[0].read_bytes()
    return found


def mutated(content: bytes, suffix: str, draw: np.random.Generator) -> bytes:
    """Returns the file's content with one to four random changes to its header, and sometimes a shorter length."""
    if suffix == ".nii.gz" and draw.random() < 0.7:
        return gzip.compress(mutated(gzip.decompress(content), ".nii", draw), 1)
    length = min(len(content), {".nii": 352, ".nii.gz": 60, ".dcm": 2000}.get(suffix, 700))
    header, rest = bytearray(content[:length]), content[length:]
    for _ in range(int(draw.integers(1, 5))):
        header = _changed(header, suffix, draw)
    if draw.random() < 0.1:
        rest = rest[: int(draw.integers(0, len(rest) + 1))]
    return bytes(header) + rest


def _changed(header: bytearray, suffix: str, draw: np.random.Generator) -> bytearray:
    kind = int(draw.integers(0, 5 if suffix in _LINES else 3))
    at = int(draw.integers(0, len(header) or 1))
    if kind == 0 and header:
        header[at] = int(draw.choice(_INTERESTING)) if draw.random() < 0.5 else int(draw.integers(0, 256))
    elif kind == 1:  # replaces whole words by extreme values
        word = int(draw.choice([-1, 0, 1, 2**31 - 1, -(2**31), 2**16])) & 0xFFFFFFFF
        size = int(draw.choice([1, 2, 4]))
        header[at : at + size] = word.to_bytes(4, str(draw.choice(["little", "big"])))[:size]  # type: ignore[arg-type]
    elif kind == 2 and draw.random() < 0.5:
        del header[at : at + int(draw.integers(1, 40))]
    elif kind == 2:
        header[at:at] = bytes(draw.integers(0, 256, int(draw.integers(1, 40)), dtype=np.uint8))
    elif kind == 3:
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(header)))
        if numbers:
            found = numbers[int(draw.integers(0, len(numbers)))]
            header[found.start() : found.end()] = _NUMBERS[int(draw.integers(0, len(_NUMBERS)))]
    else:
        lines = bytes(header).split(b"\n")
        place = int(draw.integers(0, min(len(lines), 14)))
        extra = _LINES[suffix][int(draw.integers(0, len(_LINES[suffix])))].rstrip(b"\n")
        lines[place : place + int(draw.integers(0, 2))] = [extra]
        header = bytearray(b"\n".join(lines))
    return header
