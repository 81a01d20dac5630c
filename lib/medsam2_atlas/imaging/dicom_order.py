"""The voxel order of a CT in viewers, which load it as DICOM instances, and the way from there to the file and back.

Viewers sort the instances of a series by their position along the normal of the image plane, row direction × column direction,
in ascending order (DICOM PS3.3, C.7.6.2.1.1; cornerstone's `sortImageIdsAndGetSpacing`). The axes of such a volume are
therefore always right-handed. Two orders occur: a series of a PACS has the axes of its own slices; a file that this server
offers as instances has the axes of its LPS volume. If these axes are left-handed, the slices are numbered from the other end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.orientation import Turn
from medsam2_atlas.imaging.volume import Geometry, Volume, read_labels

_INDICES = "Send voxel indices [x, y, z] of the volume in the viewer."
_AXES = np.array((("R", "L"), ("A", "P"), ("I", "S")))


@dataclass(frozen=True)
class DicomOrder:
    """The grid of a CT in viewers, and its relation to the CT's file.

    Attributes:
        grid: the grid in viewers. Its z axis is the normal of the slices.
        lps: the grid of the LPS volume.
        filed: the grid in the file, on which label maps are stored.
        source: the file, for messages.
    """

    grid: Geometry
    lps: Geometry
    filed: Geometry
    source: str = "image"

    @classmethod
    def of(cls, lps: Geometry, filed: Geometry, *, of_series: bool, source: str = "image") -> DicomOrder:
        """Returns the order of a CT.

        Args:
            lps: the grid of its LPS volume.
            filed: the grid in its file.
            of_series: whether viewers load the original series, whose order the file has; otherwise they load instances that
                were made from the LPS volume.
            source: the file, for messages.
        """
        return cls(_right_handed(filed if of_series else lps), lps, filed, source)

    @cached_property
    def turn(self) -> Turn:
        """The turn from the LPS array `[z, y, x]` to the array in viewers `[z, y, x]`."""
        steps = np.linalg.inv(self.lps.matrix) @ self.grid.matrix
        axes = [int(np.abs(steps[:, axis]).argmax()) for axis in range(3)]  # for x, y, z: the axis of the LPS volume
        back = [bool(steps[axes[axis], axis] < 0) for axis in range(3)]
        code = "".join(str(_AXES[axes[axis], int(not back[axis])]) for axis in range(3))
        z, y, x = (2 - axes[axis] for axis in (2, 1, 0))
        return Turn(code, (z, y, x), (back[2], back[1], back[0]))

    def to_viewer(self, array: np.ndarray) -> np.ndarray:
        """Returns an array `[z, y, x]` of the LPS volume in the order of viewers, `[z, y, x]`."""
        return self.turn.apply(array)

    def to_volume(self, array: np.ndarray) -> Volume:
        """Returns an array `[z, y, x]` in the order of viewers as a volume, which is written on the grid of the CT's file.

        Raises:
            ValueError: the array has another shape than the grid.
        """
        if array.shape != self.grid.shape:
            raise ValueError(f"array {array.shape} does not fit the grid {self.grid.shape}")
        return Volume(np.ascontiguousarray(self.turn.undo(array)), self.lps, self.filed, self.source)

    def read_labels(self, file: Path) -> np.ndarray:
        """Returns a label map of the CT in the order of viewers: `[z, y, x]` uint8 organ numbers.

        Args:
            file: the label map; a reader process decodes it.

        Raises:
            InputError: the label map cannot be read, or has another grid than the CT.
        """
        like = Volume(_shape_only(self.lps.shape), self.lps, self.filed, self.source)
        return self.to_viewer(read_labels(file, like).array)

    def to_file_indices(self, marks: Any) -> Any:
        """Returns marks with the voxel indices of the CT's file.

        Args:
            marks: a point, given by its voxel indices (x, y, z) in the viewer's volume, or nested lists of points.

        Raises:
            InputError: the marks are anything else.
        """
        if not isinstance(marks, (list, tuple)):
            raise InputError("marks", "are not lists of points.", _INDICES)
        if not any(isinstance(one, (list, tuple)) for one in marks):
            return self._point(marks) if marks else []
        return [self.to_file_indices(one) for one in marks]

    def _point(self, point: Sequence[Any]) -> list[int]:
        numbers = [value for value in point if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(point) != 3 or len(numbers) != 3 or not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e6:
            raise InputError("marks", "contain a point that is not three voxel indices.", _INDICES)
        index = self.filed.to_index(self.grid.to_world(np.array(numbers, float)))
        return [int(value) for value in np.rint(index)]


def read_dicom_order(image: Path, *, of_series: bool) -> DicomOrder:
    """Returns the order of a CT in viewers, from the header of its file. A reader process reads the header.

    Args:
        image: the file of the CT; for a series, a volume that was made from it, or the folder with its files.
        of_series: see `DicomOrder.of`.

    Raises:
        InputError: the file cannot be read, or is not three-dimensional.
    """
    path = image.absolute()
    content, _ = run_task("grid", path, path=str(path))
    lps, filed = (Geometry.parse(content[key]) for key in ("geometry", "file_geometry"))
    return DicomOrder.of(lps, filed, of_series=of_series, source=str(image))


def _right_handed(grid: Geometry) -> Geometry:
    """Returns a grid with its z axis reversed if its axes are left-handed."""
    axes = np.asarray(grid.direction).reshape(3, 3)
    if np.linalg.det(axes) > 0:
        return grid
    last = grid.to_world(np.array([0, 0, grid.size[2] - 1]))
    return Geometry(grid.size, grid.spacing, tuple(last.tolist()), tuple((axes * (1, 1, -1)).ravel().tolist()))


def _shape_only(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns an array of a shape that takes no memory, for a volume whose voxels are not needed."""
    return np.broadcast_to(np.uint8(0), shape)
