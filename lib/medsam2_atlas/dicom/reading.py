"""Tasks of reader processes for DICOM objects from viewers and other systems. No other process parses these objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.dicom.headers import as_json, source_headers
from medsam2_atlas.dicom.instances.uids import instance_uid
from medsam2_atlas.dicom.seg_reading import Planes, read_on_planes, read_seg
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.dicom.series.files import list_series
from medsam2_atlas.dicom.series.pixels import one_slice
from medsam2_atlas.dicom.series.slices import TAGS, slices_of
from medsam2_atlas.dicom.uids import cleaned_uid
from medsam2_atlas.imaging.decoding import check_voxels
from medsam2_atlas.imaging.decoding.dicom import dicom_dataset, dicom_header
from medsam2_atlas.imaging.volume import Geometry

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


def middle_frame(path: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decodes a DICOM file with one slice, or the middle one of a file with several, for a small picture.

    Returns:
        A dictionary with `spacing`, the distances between rows and between columns in mm, and a list with the values of the
        slice in HU, `[rows, columns]` float32.

    Raises:
        InputError: the file is not a slice of a CT, or cannot be decoded.
    """
    file = Path(path)
    slices = slices_of(file, dicom_header(file, TAGS))
    part = slices[len(slices) // 2]
    check_voxels(file, part.size[0] * part.size[1] * len(slices))
    return {"spacing": list(part.spacing)}, [one_slice(part)]


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
    return {}, [_decoded(path, lambda seg: read_seg(seg, Path(folder)))]


def decode_grid_seg(path: str, geometry: dict[str, Any], volume: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decodes a DICOM SEG that was drawn on the instances of a studies folder's CT.

    Args:
        path: the file.
        geometry: the grid of the CT in LPS orientation, whose slices are the instances; see `dicom.instances`.
        volume: the UID that begins the instances' UIDs.

    Returns:
        An empty dictionary, and a list with the label map `[z, y, x]` on that grid; see `read_on_planes`.

    Raises:
        InputError: the file is not a SEG of these instances, or is malformed.
    """
    grid = Geometry.parse(geometry)
    count = grid.size[2]
    places = grid.to_world(np.stack([np.zeros(count), np.zeros(count), np.arange(count)], axis=1))
    numbers = {(instance_uid(volume, n + 1), 0): n for n in range(count)}
    planes = Planes(numbers, places, (grid.size[1], grid.size[0]))

    def read(seg: Dataset) -> np.ndarray:
        if not _refers_to(seg, numbers):
            problem = "was drawn on another version of this CT, whose file was replaced."
            raise InputError("segmentation", problem, "Open the study again, and segment it anew.")
        return read_on_planes(seg, planes)

    return {}, [_decoded(path, read)]


def _refers_to(seg: Dataset, numbers: Mapping[tuple[str, int], int]) -> bool:
    """Returns whether a SEG refers to one of the instances, or to no instance at all."""
    named = [
        str(item.get("ReferencedSOPInstanceUID"))
        for series in seg.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedInstanceSequence") or ()
    ]
    return not named or any((uid, 0) in numbers for uid in named)


def _decoded(path: str, read: Callable[[Dataset], np.ndarray]) -> np.ndarray:
    """Returns what a function reads from a DICOM file; errors of a malformed one become an InputError."""
    try:
        return read(dicom_dataset(Path(path)))
    except (MedSAM2AtlasError, MemoryError):
        raise
    except Exception as error:
        problem = f"is malformed ({type(error).__name__}: {str(error)[:200]})."
        raise InputError("segmentation", problem, "Store it again from the viewer.") from error


def split_series(folder: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Groups the DICOM files in a folder by series. Files that are not slices are left out.

    Returns:
        A dictionary with `series`: for each series its `number`, `modality` and the names of its `files`; and
        an empty list of arrays.

    Raises:
        InputError: the folder contains no slices, or too many series.
    """
    return {"series": list_series(Path(folder))}, []
