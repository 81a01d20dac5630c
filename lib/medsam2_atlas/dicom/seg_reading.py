"""Reads DICOM segmentations, including those of other programs. It does not use highdicom, so reader processes start fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.codes import code_of
from medsam2_atlas.dicom.references import referenced, slice_numbers
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.segment_names import listed, organ_coded, organ_named, remedy

_PLACE_MM = 0.01
"""Distance in mm below which a frame has the position of a slice; a tenth of the slice distance if that is larger."""


@dataclass(frozen=True)
class Planes:
    """The slices on which a segmentation may have frames.

    Attributes:
        numbers: the index of each slice by instance UID and frame number, as in `references.slice_numbers`.
        places: the first pixels' centres, `[slices, 3]`, (x, y, z) in mm, LPS.
        size: the numbers of rows and columns.
    """

    numbers: Mapping[tuple[str, int], int]
    places: np.ndarray
    size: tuple[int, int]


def read_seg(seg: Dataset, folder: Path, table: OrganTable | None = None) -> np.ndarray:
    """Reads the label map of a SEG, on the grid of a series; see `read_on_planes`.

    Args:
        seg: the segmentation.
        folder: the folder of the series that it refers to.
        table: the organs; those of `configs/labels.yaml` by default.

    Returns:
        `[slices, rows, columns]` uint8, in the series' order.

    Raises:
        InputError: the object is not a SEG of this series, or a segment that is not an organ of the table is not empty.
    """
    _check_seg(seg)
    series = find_series(folder)
    places = np.array([part.position for part in series.slices])
    return read_on_planes(seg, Planes(slice_numbers(series.slices), places, series.slices[0].size), table)


def read_on_planes(seg: Dataset, planes: Planes, table: OrganTable | None = None) -> np.ndarray:
    """Reads the label map of a SEG, on given slices.

    Segments are identified by their labels, else by their codes; see `segment_names`. In overlaps, the organ with the higher
    number wins. Segments that are not organs must be empty: some viewers list such segments.

    Args:
        seg: the segmentation.
        planes: the slices.
        table: the organs; those of `configs/labels.yaml` by default.

    Returns:
        `[slices, rows, columns]` uint8, in the order of the slices.

    Raises:
        InputError: the object is not a SEG of these slices, or a segment that is not an organ of the table is not empty.
    """
    table = table or organ_table()
    _check_seg(seg)
    rows, columns = planes.size
    if (seg.get("Rows"), seg.get("Columns")) != (rows, columns):
        problem = "has a different number of rows or columns than the series."
        raise InputError("segmentation", problem, "Segment the series itself.")
    organs = {int(item.SegmentNumber): _organ_of(item, table) for item in seg.SegmentSequence}
    labels = np.zeros((len(planes.places), rows, columns), np.uint8)
    pixels = seg.pixel_array
    shared = (seg.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for mask, groups in zip(pixels[None] if pixels.ndim == 2 else pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if not mask.any():
            continue
        groups = _with_shared(groups, shared)
        organ = organs[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        if not organ:
            problem = f"contains a segment that is not an organ of the table. Such segments: {_unknown(seg, organs)}."
            raise InputError("segmentation", problem, remedy(table))
        plane = labels[_slice_of(groups, planes.numbers, planes.places)]
        plane[(mask > 0) & (plane < organ)] = organ
    return labels


def _check_seg(seg: Dataset) -> None:
    if seg.get("Modality") != "SEG":
        raise InputError("file", "is not a DICOM segmentation.", "Send a file of the modality SEG.")


def _unknown(seg: Dataset, organs: dict[int, int]) -> str:
    return listed([str(item.get("SegmentLabel")) for item in seg.SegmentSequence if not organs[int(item.SegmentNumber)]])


def _organ_of(item: Dataset, table: OrganTable) -> int:
    """Returns the number of a segment's organ; 0 if it is not in the table."""
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = {m.CodeValue for m in kind.get("SegmentedPropertyTypeModifierCodeSequence", ())}
    named = (organ_named(str(item.get(key, "")), table) for key in ("SegmentLabel", "TrackingID"))
    return next(filter(None, named), 0) or organ_coded(code_of(kind), modifiers, table)


def _with_shared(groups: Dataset, shared: Dataset) -> Dataset:
    """Returns a frame's functional groups, completed by those that all frames share."""
    both = Dataset()
    both.update(shared)
    both.update(groups)
    return both


def _slice_of(groups: Dataset, numbers: Mapping[tuple[str, int], int], places: np.ndarray) -> int:
    """Returns the index of a frame's slice, found by the image or frame that it references, else by its position."""
    for derivation in groups.get("DerivationImageSequence", ()):
        for source in derivation.get("SourceImageSequence", ()):
            key = referenced(source)
            if key is not None and key in numbers:
                return numbers[key]
    if "PlanePositionSequence" in groups:
        place = np.array([float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient])
        distance = np.linalg.norm(places - place, axis=1)
        if distance.min() < max(_PLACE_MM, 0.1 * float(np.linalg.norm(places[1] - places[0]))):
            return int(distance.argmin())
    raise InputError("segmentation", "has a frame that is not on any slice of the series.", "Segment the series itself.")
