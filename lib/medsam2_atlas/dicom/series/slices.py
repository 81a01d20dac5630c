"""The slices in a DICOM file: one in a single-frame file, one per frame in a multi-frame file (PS3.3, C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.uids import cleaned_uid
from medsam2_atlas.imaging.decoding.dicom import attribute

TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "SeriesDescription"),
    *("SeriesNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber", "TemporalPositionIdentifier"),
    "SpecificCharacterSet",
)
"""The attributes that are read from a slice's header."""
_EXPORT = "Export the series again, with its geometry."
_MALFORMED = "malformed"
_MAX_FRAMES = 100_000


@dataclass(frozen=True)
class Rescale:
    """The conversion from stored values to HU.

    Attributes:
        slope: the slope; None if the header has none.
        intercept: the intercept; None if the header has none.
        table: whether the header has a lookup table, which then replaces slope and intercept.
    """

    slope: float | None
    intercept: float | None
    table: bool = False

    @property
    def numbers(self) -> tuple[float, float]:
        """The slope and the intercept; 1 and 0 if the header has none."""
        return 1.0 if self.slope is None else self.slope, 0.0 if self.intercept is None else self.intercept


@dataclass(frozen=True)
class Slice:
    """A slice of a series.

    Attributes:
        file: the file that contains the slice.
        uid: the SOP Instance UID; empty if it is not valid.
        sop_class: the SOP Class UID; empty if it is not valid.
        frame: the frame of a multi-frame file, counted from 0; None in a single-frame file.
        position: the first pixel's centre, (x, y, z) in mm, LPS.
        orientation: the directions of a row and of a column, six numbers.
        spacing: the distances between rows and between columns, in mm.
        size: the numbers of rows and columns.
        rescale: the conversion from stored values to HU.
        stored: the number of bits of a stored value, and whether it is signed.
        number: the number that the scanner gave the slice; None if unknown.
        parts: the stack, temporal position and cardiac phase of the slice, as texts.
    """

    file: Path
    uid: str
    sop_class: str
    frame: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    rescale: Rescale
    stored: tuple[int, bool]
    number: int | None
    parts: tuple[str, str, str] = ("", "", "")


def slices_of(file: Path, header: Dataset) -> list[Slice]:
    """Returns the slices of a file, in the file's order.

    Args:
        file: the file, for messages.
        header: its header, which contains `TAGS`.

    Raises:
        InputError: geometry attributes are missing, geometry or rescale attributes are not numbers, or pixels are not grey
            values.
    """
    groups = attribute(header, "PerFrameFunctionalGroupsSequence")
    frames = whole(header, "NumberOfFrames") or 1
    kind = str(_get(header, "PhotometricInterpretation") or "")
    if (whole(header, "SamplesPerPixel") or 1) != 1 or kind.startswith("PALETTE"):
        raise InputError(file, f"contains colours ({kind}), not grey values.", "Export the CT itself, not pictures of it.")
    if not groups and frames == 1:
        return [_slice(file, header, None, [header])]
    if frames > _MAX_FRAMES or len(groups or ()) != frames:
        raise InputError(
            file,
            f"has {frames} frames, and positions of {len(groups or ())} of them.",
            "Export it as Enhanced CT or as single-frame CT, with the position of each frame.",
        )
    shared = list(attribute(header, "SharedFunctionalGroupsSequence") or ())[:1]
    # The file's own attributes count only if they are missing from both the frame's groups and the shared groups.
    return [_slice(file, header, n, [own, *shared, header]) for n, own in enumerate(groups)]


def _slice(file: Path, header: Dataset, frame: int | None, places: Sequence[Dataset]) -> Slice:
    position = places if frame is None or len(places) < 2 else places[:-1]  # a file's own position cannot fit all frames
    number = _get(header, "InstanceNumber")
    if frame is not None:
        number = _within(places, "FrameContentSequence", "InStackPositionNumber")
    slope, intercept = (
        _optional(file, _within(places, "PixelValueTransformationSequence", tag), tag)
        for tag in ("RescaleSlope", "RescaleIntercept")
    )
    if slope == 0:
        raise InputError(file, "has a rescale slope of 0, which makes all its values equal.", "Export the series again.")
    rows, columns = (_count(file, header, tag) for tag in ("Rows", "Columns"))
    return Slice(
        file,
        cleaned_uid(attribute(header, "SOPInstanceUID")),
        cleaned_uid(attribute(header, "SOPClassUID")),
        frame,
        _numbers(file, _within(position, "PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", 3),
        _numbers(file, _within(places, "PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", 6),
        _spacing(file, _within(places, "PixelMeasuresSequence", "PixelSpacing")),
        (rows, columns),
        Rescale(slope, intercept, bool(_get(header, "ModalityLUTSequence"))),
        (whole(header, "BitsStored") or 16, bool(_get(header, "PixelRepresentation"))),
        _whole(number),
        _parts(header, frame, places),
    )


def _parts(header: Dataset, frame: int | None, places: Sequence[Dataset]) -> tuple[str, str, str]:
    if frame is None:
        return "", _text(_get(header, "TemporalPositionIdentifier")), ""
    return (
        _text(_within(places, "FrameContentSequence", "StackID")),
        _text(_within(places, "FrameContentSequence", "TemporalPositionIndex")),
        _text(_within(places, "CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase")),
    )


def _within(places: Sequence[Dataset], sequence: str, tag: str) -> object:
    """Returns an attribute from the first dataset that has it, in the functional group `sequence` or directly."""
    for place in places:
        group = _get(place, sequence)
        value = _get(group[0], tag) if isinstance(group, Sequence) and group else _get(place, tag)
        if value is not None and value != "":
            return value
    return None


def _get(dataset: Dataset, tag: str) -> object:
    """Returns an attribute; if it is malformed, a text that is not a number."""
    value: object = attribute(dataset, tag, _MALFORMED)
    return value


def _numbers(file: Path, value: object, tag: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in value or ())  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        found = ()
    if len(found) != count:
        raise InputError(file, f"is a slice without {tag}.", _EXPORT)
    if not all(math.isfinite(v) for v in found):
        raise InputError(file, f"has {tag} {_joined(found)}, which are not numbers.", _EXPORT)
    return found


def _spacing(file: Path, value: object) -> tuple[float, ...]:
    found = _numbers(file, value, "PixelSpacing", 2)
    if min(found) <= 0:
        raise InputError(file, f"has PixelSpacing {_joined(found)}.", _EXPORT)
    return found


def _optional(file: Path, value: object, tag: str) -> float | None:
    if value is None:
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(file, f"has {tag} {str(value)[:40]!r}, which is not a number.", "Export the series again.")
    return found


def _count(file: Path, header: Dataset, tag: str) -> int:
    value = whole(header, tag) or 0
    if value < 1:
        raise InputError(file, f"is a slice without {tag}.", "Export the series again.")
    return value


def whole(dataset: Dataset, tag: str) -> int | None:
    """Returns an attribute as an integer; None if it is missing or not an integer."""
    return _whole(_get(dataset, tag))


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _text(value: object) -> str:
    return "" if value is None else str(value)[:40]


def _joined(values: Sequence[float]) -> str:
    return "\\".join(f"{v:g}" for v in values)
