"""Finds the voxel grid of a NIfTI file from its two descriptions.

A header may contain a sform (three rows of a matrix) and a qform (a quaternion), each with a code that is 0 if it is not given.
The rules that choose between them are those of ITK; `pixdim` gives the spacing for both. So a file has the same position as in
viewers that use ITK, such as 3D Slicer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.extent import lengths
from medsam2_atlas.imaging.decoding.grids import ORTHONORMAL, Grid, checked_grid

_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}
"""The unit of length in mm for each unit code."""
_SCANNER = 1
_TO_LPS = np.array([-1.0, -1.0, 1.0])
_DIFFERENT = 0.1
"""Min distance between the two descriptions, in voxels, that is reported."""


@dataclass(frozen=True)
class NiftiPlace:
    """The header's fields that give the position of the voxels, in RAS.

    Attributes:
        pixdim: eight numbers; the first is the sign of the qform's third axis, the next three are the spacing.
        codes: the codes of qform and sform.
        quaternion: the last three components of the quaternion, then the offset (x, y, z) of the qform.
        rows: the rows of the sform, four numbers each.
        units: the code of the unit of length.
        double: whether the numbers have 64 bits. If not, matrices are rounded to 32 bits, as in ITK.
    """

    pixdim: tuple[float, ...]
    codes: tuple[int, int]
    quaternion: tuple[float, ...]
    rows: tuple[float, ...]
    units: int
    double: bool

    @property
    def sform(self) -> tuple[np.ndarray, np.ndarray]:
        """The matrix `[3, 3]` and the offset `[3]` of the sform: voxel index (x, y, z) to RAS."""
        rows = np.array(self.rows, float).reshape(3, 4)
        return rows[:, :3], rows[:, 3]

    def qform(self, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the matrix `[3, 3]` and the offset `[3]` of the qform, computed as in NIfTI's own library.

        Args:
            spacing: spacing along (x, y, z), `[3]`, in the header's unit.
        """
        b, c, d, *offset = self.quaternion
        rest = 1.0 - (b * b + c * c + d * d)
        if rest < 1e-7:
            norm = float(np.sqrt(b * b + c * c + d * d))
            a, b, c, d = 0.0, b / norm, c / norm, d / norm
        else:
            a = float(np.sqrt(rest))
        matrix = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
            ]
        )
        matrix = matrix * (spacing * [1.0, 1.0, -1.0 if self.pixdim[0] < 0 else 1.0])
        return matrix.astype(np.float64 if self.double else np.float32).astype(float), np.array(offset)


def nifti_grid(file: Path, sizes: Sequence[int], place: NiftiPlace) -> Grid:
    """Returns the grid of a NIfTI file, in LPS.

    - If neither form is given, the axes point to the left, posterior and superior, and the origin is 0.
    - The sform is used if its axes are at right angles (to within 0.006°), and if one of these is true: there is no qform, the
      sform's code is 1, or both forms agree.
    - Otherwise the qform is used if it is given.
    - Otherwise the sform is used if its axes can be straightened.

    Args:
        file: the file, for messages.
        sizes: number of voxels along (x, y, z).
        place: the header's fields.

    Raises:
        InputError: the file has no usable grid.
    """
    remarks: list[str] = []
    with np.errstate(all="ignore"):
        (qcode, scode), (sform, offset) = place.codes, place.sform
        norms = np.sqrt((sform**2).sum(0))
        spacing = _spacing(file, place, norms if scode > 0 else np.zeros(3), remarks)
        given = scode > 0 and bool(np.isfinite(offset).all())
        whole = given and _orthonormal(sform)
        qform, start = place.qform(spacing) if qcode > 0 else (sform, offset)
        distance = _distance(sizes, (sform / norms * spacing, offset), (qform, start)) if given and qcode > 0 else 0.0
        same = qcode > 0 and whole and _same((sform, offset), (qform, start))
    if whole and (qcode <= 0 or scode == _SCANNER or same):
        used, matrix, origin = "sform", sform, offset
    elif qcode > 0:
        used, matrix, origin = "qform", qform, start
    elif scode > 0:
        used, matrix, origin = "sform", sform, offset
    else:
        remarks.append(
            "Its header does not give its orientation in the patient; its axes are taken as left, posterior and superior."
        )
        used, matrix, origin = "", np.diag(_TO_LPS * spacing), np.zeros(3)
    if distance > _DIFFERENT:
        remarks.append(f"Its sform and its qform differ by up to {distance:.3g} voxels; the {used} is used, as in ITK.")
    lps = matrix * _TO_LPS[:, None] if used else np.diag(spacing)
    with np.errstate(all="ignore"):
        length = np.sqrt(lps[0] ** 2 + lps[1] ** 2 + lps[2] ** 2)
        if used == "sform" and np.isfinite(length).all() and (np.abs(length - spacing) > 0.01 * spacing).any() and length.all():
            remarks.append(
                f"Its sform has spacing {lengths(length.tolist())}, its pixdim {lengths(spacing.tolist())}; "
                "pixdim is used, as in ITK."
            )
        if not (np.isfinite(lps).all() and length.all()):
            raise InputError(
                file, f"has no usable grid: its {used} has an axis without length, or NaN.", "Export it again from its source."
            )
        axes = lps / length
    found = checked_grid(
        file, sizes, spacing.tolist(), (origin * _TO_LPS).tolist() if used else [0.0] * 3, axes, _UNITS.get(place.units, 1.0)
    )
    return replace(found, remarks=(*remarks, *found.remarks))


def _spacing(file: Path, place: NiftiPlace, norms: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Returns the spacing: the absolute values of `pixdim`, or the lengths of the sform's axes if `pixdim` has none."""
    spacing = np.array(place.pixdim[1:4], float)
    if np.isfinite(spacing).all() and spacing.all():
        if (spacing < 0).any():
            remarks.append(f"Its pixdim {lengths(spacing.tolist())} is negative; the sign has no meaning in NIfTI.")
        return np.abs(spacing)
    if not (np.isfinite(norms).all() and norms.all()):
        raise InputError(
            file, f"has no usable grid: its pixdim is {lengths(spacing.tolist())}.", "Export it again from its source."
        )
    remarks.append(f"Its pixdim is {lengths(spacing.tolist())}; the spacing of its sform is used.")
    return norms


def _orthonormal(matrix: np.ndarray) -> bool:
    axes = matrix / np.sqrt((matrix**2).sum(0))
    return bool(np.isfinite(axes).all() and np.abs(axes @ axes.T - np.eye(3)).max() <= ORTHONORMAL)


def _same(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> bool:
    """Returns whether two forms agree to within rounding. ITK then uses the sform, which is more precise."""
    (a, start), (b, end) = first, second
    norms = [np.sqrt((matrix**2).sum(0)) for matrix in (a, b)]
    differences = [a / norms[0] - b / norms[1], norms[0] - norms[1], start - end]
    return all(bool(np.isfinite(values).all() and np.abs(values).max() <= ORTHONORMAL) for values in differences)


def _distance(sizes: Sequence[int], first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns the max distance between the image's corners by two forms, in voxels of the first; 0 if it is not finite."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(sizes) - 1)
    moved = (corners @ first[0].T + first[1]) - (corners @ second[0].T + second[1])
    step = float(np.sqrt((first[0] ** 2).sum(0)).min())
    found = float(np.sqrt((moved**2).sum(1)).max()) / step if step > 0 else 0.0
    return found if np.isfinite(found) else 0.0
