"""Writes NRRD and MHA files line by line, in forms that ITK does not write."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np

from files.kind import HU, ORIGIN, SPACING, Writer

_TYPES = {"uint8": ("uchar", "MET_UCHAR"), "int16": ("short", "MET_SHORT"), "float32": ("float", "MET_FLOAT")}
IN_SPACE = ("space: left-posterior-superior", "space directions: (2,0,0) (0,2.5,0) (0,0,5)", "space origin: (-30,-50,100)")
"""The header lines for the grid of `HU`."""


def nrrd(
    name: str, *lines: str, array: np.ndarray = HU, encoding: str = "raw", endian: str = "little", sizes: str = ""
) -> Writer:
    """Returns a writer of an NRRD file.

    Args:
        name: name of the file.
        lines: further lines of the header; those for the grid of `HU` by default.
        array: the voxels, `[z, y, x]` or with more axes.
        encoding: encoding of the voxels.
        endian: byte order of the voxels.
        sizes: the header's sizes; those of the array by default.
    """

    def write(folder: Path) -> Path:
        shape = sizes or " ".join(map(str, array.shape[::-1]))
        header = ["NRRD0005", f"type: {_TYPES[array.dtype.name][0]}", f"dimension: {len(shape.split())}", f"sizes: {shape}"]
        header += [f"encoding: {encoding}", f"endian: {endian}", *(lines or IN_SPACE), "", ""]
        voxels = array.astype(array.dtype.newbyteorder(">" if endian == "big" else "<")).tobytes()
        voxels = bz2.compress(voxels) if encoding == "bzip2" else voxels
        voxels = " ".join(map(str, array.ravel())).encode() if encoding == "ascii" else voxels
        (folder / name).write_bytes("\n".join(header).encode() + voxels)
        return folder / name

    return write


def mha(name: str, *lines: str, array: np.ndarray = HU, sizes: str = "") -> Writer:
    """Returns a writer of an MHA file.

    Args:
        name: name of the file.
        lines: further lines of the header; those for the grid of `HU` by default.
        array: the voxels, `[z, y, x]` or with more axes.
        sizes: the header's sizes; those of the array by default.
    """

    def write(folder: Path) -> Path:
        shape = sizes or " ".join(map(str, array.shape[::-1]))
        grid = (f"ElementSpacing = {SPACING[0]} {SPACING[1]} {SPACING[2]}", f"Offset = {ORIGIN[0]} {ORIGIN[1]} {ORIGIN[2]}")
        header = ["ObjectType = Image", f"NDims = {len(shape.split())}", "BinaryData = True", f"DimSize = {shape}"]
        header += [*(lines or grid), f"ElementType = {_TYPES[array.dtype.name][1]}", "ElementDataFile = LOCAL", ""]
        (folder / name).write_bytes("\n".join(header).encode() + array.tobytes())
        return folder / name

    return write


def slanted(degrees: float) -> tuple[str, ...]:
    """Returns the header lines for the grid of `HU` with the second axis turned towards the first."""
    x, y = SPACING[1] * np.sin(np.radians(degrees)), SPACING[1] * np.cos(np.radians(degrees))
    return (IN_SPACE[0], f"space directions: (2,0,0) ({x},{y},0) (0,0,5)", IN_SPACE[2])


def named(write: Writer, name: str) -> Writer:
    """Returns a writer of the same file under another name."""
    return lambda folder: write(folder).rename(folder / name)
