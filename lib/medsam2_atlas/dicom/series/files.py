"""Finds the DICOM files of one series below a path."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series.slices import TAGS
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.imaging.decoding.dicom import attribute, dicom_header
from medsam2_atlas.imaging.decoding.sniff import has_preamble, is_dicom
from medsam2_atlas.imaging.decoding.tree import DIRECTORY_NAME, files_below

_MAX_SERIES = 10
_MAX_LISTED = 100
_ONE = "Give a folder with the slices of exactly one series, or one image file."
_STORAGE = "1.2.840.10008.5.1.4.1.1."
"""The prefix of the SOP Class UIDs of stored objects. A file without preamble must have such a UID to count as DICOM."""
_DERIVED = (
    *("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.66.8"),  # segmentations
    *("1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.481.2"),  # parametric map, RT dose
)
"""SOP classes of objects that have positions and are often stored with a CT, but are not a scanner's images."""


@dataclass(frozen=True)
class SeriesFiles:
    """The files of a series.

    Attributes:
        headers: each file with its header, which contains `slices.TAGS`.
        remarks: messages to people about skipped files.
    """

    headers: tuple[tuple[Path, Dataset], ...]
    remarks: tuple[str, ...] = ()


def series_files(path: Path) -> SeriesFiles:
    """Finds the only series below a path.

    Args:
        path: a folder, which is searched recursively; a DICOMDIR, in place of its folder (its entries are ignored); or a DICOM
            file, in place of the files of its series in the same folder.

    Raises:
        InputError: the path contains no series, several series, or too many files or folders.
        OSError: the path cannot be read.
    """
    folder, series = path, None
    if not path.is_dir():
        header = dicom_header(path, TAGS)
        folder = path.parent
        if not _is_directory(path, header):
            if not _is_image(header):
                raise InputError(path, "is a DICOM file, but not a slice of a CT.", "Give a file of the series, or its folder.")
            series = _series_uid(header)
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    others: Counter[str] = Counter()
    placeless: Counter[str] = Counter()
    remarks = []
    for file in files_below(folder, nested=series is None):
        try:
            if not is_dicom(file):
                continue
            header = dicom_header(file, TAGS)
            if not has_preamble(file) and not str(attribute(header, "SOPClassUID")).startswith(_STORAGE):
                continue
        except (InputError, OSError):
            remarks.append(_unreadable(file, folder))
            continue
        if not _is_image(header) and not attribute(header, "SOPClassUID") and not _is_directory(file, header):
            remarks.append(_unreadable(file, folder))  # pydicom reads the undamaged part of a damaged file without an error
        elif not _is_image(header):
            others[line(attribute(header, "Modality")) or DIRECTORY_NAME] += 1
            placeless[_series_uid(header)] += bool(attribute(header, "Rows"))
        elif series is None or _series_uid(header) == series:
            found.setdefault(_series_uid(header), []).append((file, header))
        if len(found) > _MAX_SERIES:
            break
    if not found:
        beside = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        content = f"only DICOM files without slices ({beside})" if beside else "no DICOM file"
        raise InputError(path, f"contains no DICOM series: {content}.", _ONE)
    if len(found) > 1:
        raise InputError(path, _several(found, folder), "Give a file of the series to use, or a folder with only that series.")
    ((uid, members),) = found.items()
    if placeless[uid]:
        remarks.append(f"{placeless[uid]} of its images have no ImagePositionPatient and are left out.")
    return SeriesFiles(tuple(members), tuple(remarks))


def list_series(folder: Path) -> list[dict[str, Any]]:
    """Returns the series of slices in a folder without its subfolders: for each its `number`, `modality` and `files`.

    Raises:
        InputError: the folder contains no slices, or slices of more than 100 series.
        OSError: the folder cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in files_below(folder, nested=False):
        try:
            header = dicom_header(file, TAGS) if is_dicom(file) else None
        except InputError:
            continue
        if header is None or not _is_image(header):
            continue
        about = {tag: line(attribute(header, tag), 16) for tag in ("SeriesNumber", "Modality")}
        one = found.setdefault(
            _series_uid(header), {"number": about["SeriesNumber"], "modality": about["Modality"], "files": []}
        )
        one["files"].append(file.name)
        if len(found) > _MAX_LISTED:
            raise InputError(folder, f"contains slices of more than {_MAX_LISTED} series.", "Send fewer at once.")
    if not found:
        raise InputError(folder, "contains no slices of a DICOM series.", "Send the slices of a CT.")
    return list(found.values())


def _several(found: dict[str, list[tuple[Path, Dataset]]], folder: Path) -> str:
    count = f"more than {_MAX_SERIES}" if len(found) > _MAX_SERIES else str(len(found))
    listed = []
    for members in list(found.values())[:_MAX_SERIES]:
        file, header = members[0]
        number, name = (line(attribute(header, tag), 40) for tag in ("SeriesNumber", "SeriesDescription"))
        files = "1 file" if len(members) == 1 else f"{len(members)} files"
        listed.append(f"{number or '?'} {name or 'without description'!r} ({files}, such as {_name(file, folder)})")
    return f"contains slices of {count} series: {'; '.join(listed)}."


def _unreadable(file: Path, folder: Path) -> str:
    return f"{_name(file, folder)} cannot be read as DICOM and is left out."


def _name(file: Path, folder: Path) -> str:
    return line(file.relative_to(folder), 120)


def _is_directory(file: Path, header: Dataset) -> bool:
    meta = getattr(header, "file_meta", None)
    return (
        file.name.upper() == DIRECTORY_NAME
        or attribute(meta or Dataset(), "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    )


def _is_image(header: Dataset) -> bool:
    """Returns whether a file contains slices with positions, or frames that should have positions."""
    if attribute(header, "SOPClassUID") in _DERIVED:
        return False
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header


def _series_uid(header: Dataset) -> str:
    return str(attribute(header, "SeriesInstanceUID") or "")
