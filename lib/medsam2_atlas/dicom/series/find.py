"""Finds the only series below a path and checks that it is a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series.files import series_files
from medsam2_atlas.dicom.series.grid import fit_grid
from medsam2_atlas.dicom.series.slices import Slice, slices_of, whole
from medsam2_atlas.imaging.decoding import check_extent, check_voxels
from medsam2_atlas.imaging.decoding.dicom import attribute
from medsam2_atlas.imaging.volume import Geometry

_ONE = "Export one of them."
_MAX_LISTED = 10


@dataclass(frozen=True)
class Series:
    """A series that is a volume.

    Attributes:
        path: the path of the series, for messages.
        slices: the slices, in ascending order along the normal of their planes.
        grid: the volume's grid in the slices' own axes: x along a row, y along a column, z from slice to slice.
        remarks: messages to people about corrected or skipped data; see `volume.Volume`.
    """

    path: Path
    slices: tuple[Slice, ...]
    grid: Geometry
    remarks: tuple[str, ...]


def find_series(path: Path) -> Series:
    """Finds the only series below a path, which may be a folder, a DICOMDIR or a file; see `files.series_files`.

    A slice is a file, or a frame of a multi-frame file (Enhanced CT, Legacy Converted Enhanced CT, in one or several files).

    Raises:
        InputError: there is no series, or several, or the series is not a volume: a tilted gantry; missing, duplicate or uneven
            slices; slices of different orientation, spacing or size; several stacks, phases or temporal positions; invalid
            rescale attributes; more voxels than the limits allow; or a volume longer than a patient.
        OSError: the path cannot be read.
    """
    found = series_files(path)
    headers = [header for _, header in found.headers]
    frames = Counter(str(attribute(header, "FrameOfReferenceUID") or "").rstrip("\0 ") for header in headers)
    if len(frames) > 1:
        raise InputError(
            path,
            f"contains slices of {len(frames)} frames of reference.",
            "Give a folder with the slices of exactly one series.",
        )
    _check_concatenation(path, headers)
    slices = [part for file, header in found.headers for part in slices_of(file, header)]
    check_voxels(path, sum(part.size[0] * part.size[1] for part in slices))
    for n, what in enumerate(("stacks", "temporal positions", "cardiac phases")):
        _check_one(path, what, [part.parts[n] for part in slices])
    for tag, present in (
        ("RescaleIntercept", [part.rescale.intercept is not None for part in slices]),
        ("RescaleSlope", [part.rescale.slope is not None for part in slices]),
        ("ModalityLUTSequence", [part.rescale.table for part in slices]),
    ):
        if any(present) and not all(present):
            raise InputError(
                path, f"has {present.count(False)} slices without {tag}; the others have one.", "Export the series again."
            )
    fitted = fit_grid(path, slices)
    check_extent(path, fitted.grid.size, fitted.grid.spacing)
    return Series(path, fitted.slices, fitted.grid, (*found.remarks, *fitted.remarks))


def _check_one(path: Path, what: str, names: Sequence[str]) -> None:
    kinds = sorted(set(names), key=lambda name: (len(name), name))
    if 1 < len(kinds) < len(names):  # some scanners count one temporal position per slice of a volume
        listed = ", ".join(name or "none" for name in kinds[:_MAX_LISTED]) + (", …" if len(kinds) > _MAX_LISTED else "")
        raise InputError(path, f"contains {len(kinds)} {what} ({listed}), each of them a volume.", _ONE)


def _check_concatenation(path: Path, headers: Sequence[Dataset]) -> None:
    """Checks that no file is missing from a multi-frame image that was split into several files (PS3.3, C.7.6.16.1.3)."""
    parts: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for header in headers:
        if uid := str(attribute(header, "ConcatenationUID") or ""):
            parts.setdefault(uid, set()).add(whole(header, "InConcatenationNumber") or 0)
            totals[uid] = max(totals.get(uid, 0), whole(header, "InConcatenationTotalNumber") or 0)
    for uid, numbers in parts.items():
        missing = max(totals[uid], *numbers) - len(numbers)
        if missing:
            raise InputError(
                path,
                f"lacks {missing} of the files that its multi-frame image was split into.",
                "Export the whole series again.",
            )
