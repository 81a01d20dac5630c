"""Orders of axes: the way from the LPS array of a volume to the array that another program expects, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.imaging.volume import Geometry, Volume, to_sitk

AS_FILED = "file"
"""In place of an orientation's code: as the file has its axes."""


@dataclass(frozen=True)
class Turn:
    """A permutation of axes, and flips; no voxel is interpolated.

    Attributes:
        code: orientation of the turned array, by the directions in which x, y and z rise, such as RAS.
        axes: for each axis of the turned array, the axis of the LPS array `[z, y, x]` that it comes from.
        flipped: for each axis of the turned array, whether it runs the other way.
    """

    code: str
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Returns an LPS array `[z, y, x]` in this orientation, as `[z, y, x]` of its own axes."""
        turned: np.ndarray = np.flip(array.transpose(self.axes), self._flips)
        return turned

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of this orientation as an LPS array `[z, y, x]`."""
        turned: np.ndarray = np.flip(array, self._flips).transpose(np.argsort(self.axes))
        return turned

    def spacing(self, geometry: Geometry) -> tuple[float, ...]:
        """Returns the spacing (z, y, x) in mm of the turned array, for the grid of the LPS array."""
        return tuple(geometry.spacing[::-1][axis] for axis in self.axes)

    @property
    def _flips(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(3) if self.flipped[axis])


def turn_to(volume: Volume, code: str) -> Turn:
    """Returns how a volume's array becomes one of another orientation.

    Args:
        volume: in LPS orientation.
        code: such as RAS, by the directions in which x, y and z rise; or `file`, for the order that its file has.
    """
    import SimpleITK as sitk

    turn = sitk.DICOMOrientImageFilter()
    known = volume.file_geometry if code == AS_FILED else volume.geometry
    turn.SetDesiredCoordinateOrientation("LPS" if code == AS_FILED else code)
    turn.Execute(to_sitk(np.zeros((1, 1, 1), np.uint8), Geometry((1, 1, 1), known.spacing, known.origin, known.direction)))
    order, flips = np.array(turn.GetPermuteOrder()), np.array(turn.GetFlipAxes())  # of x, y, z, flipped after the permutation
    if code == AS_FILED:  # the way from the file, backwards
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(known.direction)
        order = np.argsort(order)
        flips = flips[order]
    z, y, x = (2 - int(axis) for axis in order[::-1])
    return Turn(str(code), (z, y, x), (bool(flips[2]), bool(flips[1]), bool(flips[0])))
