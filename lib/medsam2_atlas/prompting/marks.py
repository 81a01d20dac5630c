"""A person's marks of an organ: boxes and points on slices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting.prompt import Box

Point = tuple[float, float]
_MAX_MARKS = 1000


@dataclass(frozen=True)
class SliceMarks:
    """The marks on one slice, in voxel indices of the LPS volume.

    Attributes:
        z: the slice.
        box: a box (x_min, y_min, x_max, y_max); None if there is no box.
        inside: points (x, y) on the organ.
        outside: points (x, y) outside the organ.
    """

    z: int
    box: Box | None = None
    inside: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()


@dataclass(frozen=True)
class MarkedOrgan:
    """An organ's marks, in voxel indices of the LPS volume.

    Slices with boxes define the organ. If there is no box, the slice of the first point on the organ defines it. Points on
    other slices correct the tracked masks, because a point alone is less specific than a tracked mask.

    Attributes:
        label: the organ number.
        z_min: the first slice of the search, included.
        z_max: the last slice of the search, included.
        defining: the slices whose marks define the organ.
        correcting: the other marked slices.
    """

    label: int
    z_min: int
    z_max: int
    defining: tuple[SliceMarks, ...]
    correcting: tuple[SliceMarks, ...] = field(default=())

    def __post_init__(self) -> None:
        slices = [marks.z for marks in self.slices]
        if not self.defining or len(set(slices)) < len(slices):
            raise ValueError(f"label {self.label}: a slice must define the organ, and no slice may be marked twice")
        if not self.z_min <= min(slices) <= max(slices) <= self.z_max:
            raise ValueError(f"label {self.label}: marks on slices {slices} outside {self.z_min}..{self.z_max}")

    @property
    def slices(self) -> tuple[SliceMarks, ...]:
        """All marked slices: the defining slices, then the correcting ones."""
        return self.defining + self.correcting


def marked_organ(
    volume: Volume,
    label: int,
    *,
    boxes: Sequence[Sequence[Sequence[float]]] = (),
    inside: Sequence[Sequence[float]] = (),
    outside: Sequence[Sequence[float]] = (),
    reach: float | None = None,
) -> MarkedOrgan:
    """Returns an organ's marks, given in voxel indices (x, y, z) of the image file, as viewers send them.

    Args:
        volume: the image.
        label: the organ number.
        boxes: boxes, each as two opposite corners (x, y, z) on one axial slice.
        inside: points (x, y, z) on the organ, in the order in which the person set them.
        outside: points (x, y, z) outside the organ.
        reach: the max distance of the search from the outermost marked slices in mm; None searches the whole volume.

    Raises:
        InputError: no mark defines the organ, or a mark cannot be used.
    """
    if not boxes and not inside:
        raise InputError("marks", "do not show the organ.", "Draw a box around it, or set a point on it.")
    found = slice_marks(volume, boxes=boxes, inside=inside, outside=outside)
    defining = {marks.z for marks in found if marks.box is not None} or {_indices(volume, inside[:1], "point")[0][2]}
    slices = [marks.z for marks in found]
    more = len(volume.array) if reach is None else round(reach / volume.geometry.spacing[2])
    return MarkedOrgan(
        label,
        max(0, slices[0] - more),
        min(len(volume.array) - 1, slices[-1] + more),
        tuple(marks for marks in found if marks.z in defining),
        tuple(marks for marks in found if marks.z not in defining),
    )


def slice_marks(
    volume: Volume,
    *,
    boxes: Sequence[Sequence[Sequence[float]]] = (),
    inside: Sequence[Sequence[float]] = (),
    outside: Sequence[Sequence[float]] = (),
) -> list[SliceMarks]:
    """Returns the marks by slice, in ascending order; the arguments are those of `marked_organ`.

    Raises:
        InputError: a mark cannot be used.
    """
    if len(boxes) + len(inside) + len(outside) > _MAX_MARKS:
        raise InputError("marks", f"are more than {_MAX_MARKS}.", "Send fewer points.")
    corners = [_indices(volume, box, "box", 2) for box in boxes]
    on, off = (_indices(volume, points, "point") for points in (inside, outside))
    drawn: dict[int, Box] = {}
    for (x0, y0, z0), (x1, y1, z1) in corners:
        if z0 != z1:
            raise InputError("box", "does not lie on one axial slice.", "Draw boxes on axial slices.")
        if z0 in drawn:
            raise InputError("box", f"is the second one on slice {z0}.", "Draw one box around the organ on a slice.")
        drawn[z0] = (float(min(x0, x1)), float(min(y0, y1)), float(max(x0, x1)), float(max(y0, y1)))
    points: dict[int, tuple[list[Point], list[Point]]] = defaultdict(lambda: ([], []))
    for kind, listed in enumerate((on, off)):
        for x, y, z in listed:
            points[z][kind].append((float(x), float(y)))
    return [SliceMarks(z, drawn.get(z), tuple(points[z][0]), tuple(points[z][1])) for z in sorted({*drawn, *points})]


def _indices(volume: Volume, points: Sequence[Sequence[float]], what: str, count: int | None = None) -> list[list[int]]:
    """Converts voxel indices (x, y, z) of the image file to those of the LPS volume."""
    try:
        given = np.asarray(points, float).reshape(-1, 3)
        if len(given) != len(points) or (count is not None and len(given) != count) or not np.isfinite(given).all():
            raise ValueError(points)
    except (TypeError, ValueError) as error:
        form = "two corners, [x, y, z] each" if count else "[x, y, z]"
        raise InputError(what, f"is not given as {form}.", "Give voxel indices of the image.") from error
    if ((given < -0.5) | (given > np.array(volume.file_geometry.size) - 0.5)).any():
        raise InputError(
            what, f"lies outside the image of size {volume.file_geometry.size}.", "Give voxel indices of the image."
        )
    indices = volume.geometry.to_index(volume.file_geometry.to_world(given))
    result: list[list[int]] = np.rint(indices).astype(int).clip(0, np.array(volume.geometry.size) - 1).tolist()
    return result
