"""DICOM series: which files make a volume, in which order, and whether they make one at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medsam2_atlas.decoding.dicom import dicom_header
from medsam2_atlas.errors import InputError

_TILT_MM = 0.1
_UNEVEN = 0.1
_TURNED = 1e-3
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "InstanceNumber"),
)


@dataclass(frozen=True)
class Slice:
    """A file of a series. position: of its first pixel, (x, y, z) in mm, LPS. values: pixels that its header claims."""

    file: Path
    uid: str
    position: tuple[float, float, float]
    values: int


def series_slices(folder: Path) -> list[Slice]:
    """The slices of the one series in a folder, in the order of a volume: along the normal of its planes.

    Raises:
        InputError: no series, several, or one that makes no volume: a tilted gantry, missing or double slices, slices of
            different orientation, spacing or size.
    """
    headers = _headers(folder)
    first = headers[0][1]
    for what, tag in (
        ("series", "SeriesInstanceUID"),
        ("frames of reference", "FrameOfReferenceUID"),
        ("sizes", "Rows"),
        ("sizes", "Columns"),
        ("pixel spacings", "PixelSpacing"),
    ):
        kinds = Counter(str(header.get(tag, "")) for _, header in headers)
        if len(kinds) > 1:
            raise InputError(
                folder, f"holds slices of {len(kinds)} {what}.", "Give a folder with the slices of exactly one series."
            )
    across = _orientation(folder, first)
    if any(np.abs(_orientation(folder, header) - across).max() > _TURNED for _, header in headers):
        raise InputError(
            folder, "holds slices of different orientation.", "Leave scouts and other planes out; export one series."
        )
    normal = np.cross(across[:3], across[3:])
    places = np.array([_position(folder, header) for _, header in headers])
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    _check_steps(folder, places, normal)
    return [_slice(headers[i][0], headers[i][1], tuple(places[n])) for n, i in enumerate(order)]


def _slice(file: Path, header: Dataset, place: tuple[float, float, float]) -> Slice:
    values = math.prod(int(header.get(tag) or 1) for tag in ("Rows", "Columns", "NumberOfFrames"))
    return Slice(file, str(header.SOPInstanceUID), place, values)


def _headers(folder: Path) -> list[tuple[Path, Dataset]]:
    found: list[tuple[Path, Dataset]] = []
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            try:
                header = dicom_header(file, _TAGS)
            except (InputError, OSError):
                continue
            if "ImagePositionPatient" in header:
                found.append((file, header))
    if not found:
        raise InputError(folder, "holds no DICOM series.", "Give a folder with the slices of exactly one series.")
    return found


def _check_steps(folder: Path, places: np.ndarray, normal: np.ndarray) -> None:
    """`places`: positions in order, `[slices, 3]`; `normal`: of the slices' planes."""
    if len(places) < 2:
        raise InputError(folder, "holds one slice: a volume needs at least two.", "Choose the whole series.")
    moves = np.diff(places, axis=0)
    steps = moves @ normal
    usual = float(np.median(steps))
    if steps.min() < 0.01:
        where = places[int(steps.argmin())]
        raise InputError(
            folder,
            f"holds more than one slice at {_text(where)} mm.",
            "It may hold several phases or series; export one of them.",
        )
    aside = np.linalg.norm(moves - steps[:, None] * normal, axis=1)
    if aside.max() > max(_TILT_MM, 0.01 * usual):
        angle = float(np.degrees(np.arctan2(aside.max(), usual)))
        raise InputError(
            folder,
            f"was scanned with a tilted gantry ({angle:.1f}°).",
            "Have the scanner's software reformat it to a straight volume.",
        )
    if steps.max() - steps.min() > _UNEVEN * usual:
        gaps = [n for n, step in enumerate(steps) if step > (1 + _UNEVEN) * usual]
        where = f", first after the slice at {_text(places[gaps[0]])} mm" if gaps else ""
        raise InputError(
            folder,
            f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart: some are missing or double{where}.",
            "Export the whole series again.",
        )


def _orientation(folder: Path, header: Dataset) -> np.ndarray:
    return _numbers(folder, header, "ImageOrientationPatient", 6)


def _position(folder: Path, header: Dataset) -> np.ndarray:
    return _numbers(folder, header, "ImagePositionPatient", 3)


def _numbers(folder: Path, header: Dataset, tag: str, count: int) -> np.ndarray:
    values = np.array([float(v) for v in header.get(tag) or ()])
    if len(values) != count:
        raise InputError(folder, f"holds slices without {tag}.", "Export the series again, with its geometry.")
    return values


def _text(place: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in place) + ")"
