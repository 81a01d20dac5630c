"""Tasks of reader processes for DICOM objects from viewers and other systems. No other process parses these objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.dicom.headers import as_json, source_headers
from medsam2_atlas.dicom.seg_reading import read_seg
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.dicom.uids import cleaned_uid
from medsam2_atlas.imaging.decoding.dicom import dicom_dataset, dicom_header

_MAX_SERIES = 100
_TAGS = ("SOPClassUID", "SOPInstanceUID", "Modality", "ReferencedSeriesSequence")


def describe_object(path: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Describes a DICOM file.

    Returns:
        A dictionary with `sop_class`, `sop_instance`, `modality` and `series` (the UIDs of the series that it refers to), and
        an empty list of arrays.

    Raises:
        InputError: the file is not a DICOM file, or has no valid UIDs.
    """
    try:
        header = dicom_header(Path(path), _TAGS)
    except InputError as error:
        raise InputError("object", error.problem, "Store it again from the viewer.") from error
    uids = [cleaned_uid(header.get(tag)) for tag in ("SOPClassUID", "SOPInstanceUID")]
    if not all(uids):
        raise InputError("object", "has no valid SOP Class UID and SOP Instance UID.", "Store it again from the viewer.")
    items = header.get("ReferencedSeriesSequence") or ()
    series = [uid for item in items[:_MAX_SERIES] if (uid := cleaned_uid(item.get("SeriesInstanceUID")))]
    about = {"sop_class": uids[0], "sop_instance": uids[1], "modality": str(header.get("Modality", "")), "series": series}
    return about, []


def describe_series(folder: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Completes the headers of a series for objects derived from it.

    Returns:
        A dictionary with `headers`, for `headers.from_json`, and an empty list of arrays.

    Raises:
        InputError: the series is not a volume.
    """
    return {"headers": as_json(source_headers(Path(folder)))}, []


def slice_files(folder: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Finds the files in a folder that contain slices of its only series.

    Returns:
        A dictionary with `files`, the names of these files, and an empty list of arrays.

    Raises:
        InputError: the folder contains no series or several series, or the series is not a volume.
    """
    return {"files": sorted({part.file.name for part in find_series(Path(folder)).slices})}, []


def decode_seg(path: str, folder: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decodes a DICOM SEG.

    Args:
        path: the file.
        folder: the folder of the series that it refers to.

    Returns:
        An empty dictionary, and a list with the label map `[slices, rows, columns]` in the series' order; see `read_seg`.

    Raises:
        InputError: the file is not a SEG of this series, or is malformed.
    """
    try:
        return {}, [read_seg(dicom_dataset(Path(path)), Path(folder))]
    except (MedSAM2AtlasError, MemoryError):
        raise
    except Exception as error:
        problem = f"is malformed ({type(error).__name__}: {str(error)[:200]})."
        raise InputError("segmentation", problem, "Store it again from the viewer.") from error
