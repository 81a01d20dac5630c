"""Completes the headers of a CT series for objects derived from it, and removes values that DICOM does not allow.

Anonymised and exported series may lack attributes, or contain texts such as "ANON" instead of a date. Objects derived from such
a series must still be valid. So missing attributes that may be empty (Type 2) are written empty, and missing attributes that
need a value (Type 1) get one derived from the series.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)

from medsam2_atlas.dicom.origin import derived_uid
from medsam2_atlas.dicom.series import Series, Slice, find_series
from medsam2_atlas.dicom.texts import date, decimal, line, person_name, time_of_day
from medsam2_atlas.dicom.uids import cleaned_uid
from medsam2_atlas.imaging.decoding.dicom import attribute, dicom_header

_AGE = re.compile(r"\d{3}[DWMY]")
_LONG, _SHORT = 64, 16
_REQUIRED = {"PatientID": _LONG, "StudyID": _SHORT, "AccessionNumber": _SHORT}
"""Type 2 texts and their max number of characters."""
_NAMES = ("PatientName", "ReferringPhysicianName")
_OPTIONAL = (
    *("IssuerOfPatientID", "StudyDescription", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "DeidentificationMethod"),
)
_OWN = ("00080016", "00080018", "00081150", "00081155", "00081160", "00200032")
"""Tags that differ between slices: SOP class, SOP instance, the frame that they describe, Image Position (Patient)."""
_KINDS = (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    PositronEmissionTomographyImageStorage,
)
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns"),
    *("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PositionReferenceIndicator", "SpecificCharacterSet", *_REQUIRED, *_NAMES, *_OPTIONAL),
)


def source_headers(folder: Path) -> list[Dataset]:
    """Reads and completes the headers of the series in a folder.

    Returns:
        One new dataset per slice, in the order of the slices, with only the attributes that derived objects copy, all in
        Unicode. A frame of a multi-frame file gets the header of a single-frame CT; `references.image_reference` refers to the
        frame.

    Raises:
        InputError: the series is not a volume.
    """
    series = find_series(folder)
    common = _common(dicom_header(series.slices[0].file, _TAGS), series)
    return [_with(common, _of_slice(part, common)) for part in series.slices]


def as_json(headers: Sequence[Dataset]) -> list[dict[str, Any]]:
    """Returns the headers of a series as DICOM JSON: the shared attributes, then each slice's own attributes."""
    own = [{tag: value for tag, value in header.to_json_dict().items() if tag in _OWN} for header in headers]
    return [headers[0].to_json_dict(), *own]


def from_json(content: Sequence[Mapping[str, Any]]) -> list[Dataset]:
    """Returns the headers from the result of `as_json`."""
    common = Dataset.from_json(dict(content[0]))
    return [_with(common, Dataset.from_json(dict(own))) for own in content[1:]]


def _common(first: Dataset, found: Series) -> Dataset:
    """Returns the attributes that all slices of a series share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    series = cleaned_uid(attribute(first, "SeriesInstanceUID")) or derived_uid(f"series/{found.slices[0].uid}")
    ds.SeriesInstanceUID = series
    ds.StudyInstanceUID = cleaned_uid(attribute(first, "StudyInstanceUID")) or derived_uid(f"study/{series}")
    ds.FrameOfReferenceUID = cleaned_uid(attribute(first, "FrameOfReferenceUID")) or derived_uid(f"frame/{series}")
    ds.SOPClassUID, ds.Modality, ds.LossyImageCompression = CTImageStorage, "CT", "00"
    for tag, length in _REQUIRED.items():
        setattr(ds, tag, line(attribute(first, tag), length))
    for tag in _NAMES:
        setattr(ds, tag, person_name(attribute(first, tag)))
    for tag in ("StudyDate", "PatientBirthDate"):
        setattr(ds, tag, date(attribute(first, tag)))
    ds.StudyTime = time_of_day(attribute(first, "StudyTime"))
    sex = line(attribute(first, "PatientSex"))
    ds.PatientSex = sex if sex in ("M", "F", "O") else ""
    ds.PositionReferenceIndicator = line(attribute(first, "PositionReferenceIndicator"))
    for tag in _OPTIONAL:
        if text := line(attribute(first, tag)):
            setattr(ds, tag, text)
    if _AGE.fullmatch(age := line(attribute(first, "PatientAge"))):
        ds.PatientAge = age
    part = found.slices[0]
    ds.Rows, ds.Columns = part.size
    ds.PixelSpacing = [decimal(v) for v in part.spacing]
    ds.ImageOrientationPatient = [decimal(v) for v in part.orientation]
    thickness = _numbers(first, "SliceThickness", 1) or [found.grid.spacing[2]]
    ds.SliceThickness = decimal(thickness[0])
    return ds


def _with(common: Dataset, own: Dataset) -> Dataset:
    ds = Dataset()
    ds.update(common)
    ds.update(own)
    return ds


def _of_slice(part: Slice, common: Dataset) -> Dataset:
    ds = Dataset()
    kind = part.sop_class if part.sop_class in _KINDS else CTImageStorage
    uid = part.uid or derived_uid(f"{common.SeriesInstanceUID}/{part.position}")
    if part.frame is None:
        ds.SOPClassUID, ds.SOPInstanceUID = kind, uid
    else:
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, derived_uid(f"frame/{uid}/{part.frame}")
        ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = part.sop_class or EnhancedCTImageStorage, uid
        ds.ReferencedFrameNumber = part.frame + 1
    ds.ImagePositionPatient = [decimal(v) for v in part.position]
    return ds


def _numbers(header: Dataset, tag: str, count: int) -> list[float]:
    """Returns an attribute's numbers; empty unless they are `count` positive and finite numbers."""
    try:
        value = attribute(header, tag)
        numbers = [float(v) for v in (value if count > 1 else [value])]
    except (TypeError, ValueError):
        return []
    return numbers if len(numbers) == count and all(np.isfinite(v) and v > 0 for v in numbers) else []
