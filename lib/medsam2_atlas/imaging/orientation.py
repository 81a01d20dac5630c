"""Converts a volume's LPS array to the axis order that another program expects, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.imaging.volume import Geometry, Volume, to_sitk

AS_FILED = "file"
"""The value of `turn_to`'s `code` that stands for the axis order of the file."""


@dataclass(frozen=True)
class Turn:
    """A permutation and reversal of axes, without interpolation.

    Attributes:
        code: orientation of the turned array: the directions in which x, y and z increase, such as RAS.
        axes: for each axis of the turned array, the corresponding axis of the LPS array `[z, y, x]`.
        flipped: for each axis of the turned array, whether its direction is reversed.
    """

    code: str
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Returns an LPS array `[z, y, x]` turned to this orientation, as `[z, y, x]` of the new axes."""
        turned: np.ndarray = np.flip(array.transpose(self.axes), self._flips)
        return turned

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Returns an array `[z, y, x]` of this orientation turned back to LPS, as `[z, y, x]`."""
        turned: np.ndarray = np.flip(array, self._flips).transpose(np.argsort(self.axes))
        return turned

    def spacing(self, geometry: Geometry) -> tuple[float, ...]:
        """Returns the spacing (z, y, x) in mm of the turned array. geometry: the grid of the LPS array."""
        return tuple(geometry.spacing[::-1][axis] for axis in self.axes)

    @property
    def _flips(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(3) if self.flipped[axis])


def turn_to(volume: Volume, code: str) -> Turn:
    """Returns the turn from a volume's array to another orientation.

    Args:
        volume: a volume; its array is `[z, y, x]` in LPS orientation.
        code: the directions in which x, y and z increase, such as RAS; or `file`, for the axis order of the volume's file.
    """
    import SimpleITK as sitk

    turn = sitk.DICOMOrientImageFilter()
    known = volume.file_geometry if code == AS_FILED else volume.geometry
    turn.SetDesiredCoordinateOrientation("LPS" if code == AS_FILED else code)
    turn.Execute(to_sitk(np.zeros((1, 1, 1), np.uint8), Geometry((1, 1, 1), known.spacing, known.origin, known.direction)))
    order, flips = np.array(turn.GetPermuteOrder()), np.array(turn.GetFlipAxes())  # of x, y, z, flipped after the permutation
    if code == AS_FILED:  # inverts the turn from the file to LPS
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(known.direction)
        order = np.argsort(order)
        flips = flips[order]
    z, y, x = (2 - int(axis) for axis in order[::-1])
    return Turn(str(code), (z, y, x), (bool(flips[2]), bool(flips[1]), bool(flips[0])))
