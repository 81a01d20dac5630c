"""Writes NIfTI files field by field, in forms that ITK does not write."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from files.kind import HU, ORIGIN, SPACING, Writer

MATRIX = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
MATRIX[:3, 3] = [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]]
"""The affine `[4, 4]` from voxel indices to mm in RAS, for the grid of `HU`."""


def write_nifti(
    file: Path,
    array: np.ndarray,
    matrix: np.ndarray,
    codes: tuple[int, int] = (0, 1),
    *,
    qform: np.ndarray | None = None,
    packed: bool | None = None,
    **fields: Any,
) -> Path:
    """Writes a NIfTI file.

    Args:
        file: the file to write.
        array: the voxels, `[x, y, z]`.
        matrix: the affine `[4, 4]` of the sform; its spacing becomes `pixdim`.
        codes: the codes of qform and sform.
        qform: the affine of the qform; `matrix` by default.
        packed: whether the file is packed by gzip; its suffix decides by default.
        fields: values of the header by name, which replace all others; `kind` is nibabel's header class, `endianness` its byte
            order.
    """
    kind = fields.pop("kind", nibabel.Nifti1Header)
    header = kind(endianness=fields.pop("endianness", "<"))
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = 544 if kind is nibabel.Nifti2Header else 352
    header.set_qform(matrix if qform is None else qform, 1)
    header.set_sform(matrix, 1)
    header["qform_code"], header["sform_code"] = codes
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(header.endianness)).tobytes(order="F")
    packed = file.name.endswith(".gz") if packed is None else packed
    file.write_bytes(gzip.compress(content) if packed else content)
    return file


def nifti(
    name: str, array: np.ndarray = HU, matrix: np.ndarray = MATRIX, codes: tuple[int, int] = (0, 1), **options: Any
) -> Writer:
    """Returns a writer of a NIfTI file of an array `[z, y, x]`, or with more axes before z."""
    return lambda folder: write_nifti(folder / name, array.T, matrix, codes, **options)


def packed_twice(folder: Path) -> Path:
    """Writes a `.nii.gz` file that was packed twice."""
    file = write_nifti(folder / "ct.nii.gz", HU.T, MATRIX)
    file.write_bytes(gzip.compress(file.read_bytes()))
    return file


def scaled(factor: float) -> np.ndarray:
    """Returns `MATRIX` in another unit of length."""
    return np.diag([factor, factor, factor, 1.0]) @ MATRIX


def shifted(distance: float) -> np.ndarray:
    """Returns `MATRIX` moved upwards by a distance in mm."""
    matrix = MATRIX.copy()
    matrix[2, 3] += distance
    return matrix


def skewed(degrees: float) -> np.ndarray:
    """Returns `MATRIX` with the second axis turned towards the first."""
    matrix = MATRIX.copy()
    matrix[0, 1] = -SPACING[1] * np.sin(np.radians(degrees))
    matrix[1, 1] = -SPACING[1] * np.cos(np.radians(degrees))
    return matrix


def srow(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the header's fields for a sform that nibabel's methods would refuse."""
    return {f"srow_{axis}": matrix[row] for row, axis in enumerate("xyz")}
