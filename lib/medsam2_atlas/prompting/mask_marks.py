"""Reads marks that correct given masks from a JSON file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.prompting.marks import Point, SliceMarks
from medsam2_atlas.prompting.masks import MaskedOrgan
from medsam2_atlas.prompting.prompt import BoxEntry, BoxPrompt, FileEntry, OrganPrompt, read_entries

_FORM = (
    'Write a list of {"label", "z_min", "z_max", "boxes": [{"z", "box": [x_min, y_min, x_max, y_max]}], '
    '"points": [{"z", "inside": [[x, y]], "outside": [[x, y]]}]}; all but the label may be missing if the mask has the label.'
)


@dataclass(frozen=True)
class LabelMarks:
    """The marks of one label, in voxel indices of the LPS volume.

    Attributes:
        label: the organ number.
        marks: the marks by slice, in ascending order.
        z_min: the first slice of the range; None if it is not given.
        z_max: the last slice of the range; None if it is not given.
    """

    label: int
    marks: tuple[SliceMarks, ...] = ()
    z_min: int | None = None
    z_max: int | None = None

    def with_mask(self, mask: np.ndarray, source: str = "") -> MaskedOrgan:
        """Returns the marks with the mask that they correct; the range is extended to all slices of both.

        Args:
            mask: bool `[z, y, x]`; not empty.
            source: where the mask comes from, for reports.
        """
        slices = [*(marks.z for marks in self.marks), *np.flatnonzero(mask.any((1, 2))).tolist()]
        slices += [z for z in (self.z_min, self.z_max) if z is not None]
        return MaskedOrgan(self.label, mask, self.marks, min(slices), max(slices), source)

    def alone(self, file: Path) -> OrganPrompt:
        """Returns the prompt of a label that has no mask.

        Raises:
            InputError: the range or the boxes are missing, or there are points.
        """
        boxes = tuple(BoxPrompt(marks.z, marks.box) for marks in self.marks if marks.box is not None)
        if self.z_min is None or self.z_max is None or len(boxes) != len(self.marks) or not boxes:
            problem = f"has no range, no box or a point for label {self.label}, which is not in the mask."
            raise InputError(file, problem, "Give z_min, z_max and boxes for it, without points.")
        return OrganPrompt(self.label, self.z_min, self.z_max, boxes)


class _Points(FileEntry):
    z: int
    inside: list[Point] = Field(default_factory=list)
    outside: list[Point] = Field(default_factory=list)


class _Marks(FileEntry):
    label: int = Field(ge=1, le=255)
    z_min: int | None = None
    z_max: int | None = None
    boxes: list[BoxEntry] = Field(default_factory=list)
    points: list[_Points] = Field(default_factory=list)

    def value(self) -> LabelMarks:
        boxes = {one.z: one.box for one in self.boxes}
        points: dict[int, tuple[list[Point], list[Point]]] = defaultdict(lambda: ([], []))
        for one in self.points:
            points[one.z][0].extend(one.inside)
            points[one.z][1].extend(one.outside)
        slices = sorted({*boxes, *points})
        marks = tuple(SliceMarks(z, boxes.get(z), tuple(points[z][0]), tuple(points[z][1])) for z in slices)
        return LabelMarks(self.label, marks, self.z_min, self.z_max)


def read_label_marks(path: Path, geometry: Geometry) -> dict[int, LabelMarks]:
    """Reads the marks of each label from a JSON file: a list, or a report with such a list under `prompts`.

    Args:
        path: the file.
        geometry: the grid of the volume, to check the marks against.

    Returns:
        The marks by label.

    Raises:
        InputError: the file has another form, or a mark lies outside the volume.
    """
    try:
        listed = read_entries(path, _Marks)
    except ValueError as error:
        raise InputError(path, f"does not contain marks: {error}", _FORM) from error
    found: dict[int, LabelMarks] = {}
    for one in listed:
        if one.label in found or len({box.z for box in one.boxes}) < len(one.boxes):
            raise InputError(path, f"lists label {one.label}, or one of its slices, twice.", "Give each slice one box.")
        _check(path, one, geometry)
        found[one.label] = one.value()
    return found


def _check(path: Path, marks: _Marks, geometry: Geometry) -> None:
    nx, ny, nz = geometry.size
    ends = [z for z in (marks.z_min, marks.z_max) if z is not None]
    slices = [*(one.z for one in marks.boxes), *(one.z for one in marks.points), *ends]
    points = np.array([p for one in marks.points for p in (*one.inside, *one.outside)]).reshape(-1, 2)
    boxes = np.array([one.box for one in marks.boxes]).reshape(-1, 4)
    inside = all(0 <= z < nz for z in slices) and (boxes >= 0).all() and (boxes <= (nx, ny, nx, ny)).all()
    inside = inside and (points >= -0.5).all() and (points < (nx - 0.5, ny - 0.5)).all()
    if not inside or (boxes[:, :2] > boxes[:, 2:]).any() or ends != sorted(ends):
        problem = f"has a mark for label {marks.label} outside the volume of size {geometry.size}, or with its ends swapped."
        raise InputError(path, problem, "Give voxel indices of the CT.")
