"""Finds the DICOM files of one series below a path."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series.slices import TAGS
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.imaging.decoding.dicom import attribute, dicom_header
from medsam2_atlas.imaging.decoding.sniff import has_preamble, is_dicom
from medsam2_atlas.imaging.decoding.tree import DIRECTORY_NAME, files_below

_MAX_SERIES = 10
_ONE = "Give a folder with the slices of exactly one series."
_STORAGE = "1.2.840.10008.5.1.4.1.1."
"""With this begin the SOP Class UIDs of images, which a file without preamble must have to count as DICOM."""
_DERIVED = (
    *("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.66.8"),  # segmentations
    *("1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.481.2"),  # parametric map, RT dose
)
"""Kinds of objects that have positions, and often lie beside a CT, but are no images of a scanner."""


@dataclass(frozen=True)
class SeriesFiles:
    """The files of a series, each with its header (`slices.TAGS`). remarks: what was left out, for people."""

    headers: tuple[tuple[Path, Dataset], ...]
    remarks: tuple[str, ...] = ()


def series_files(path: Path) -> SeriesFiles:
    """Finds the one series below a path.

    Args:
        path: a folder, which is searched with the folders in it; a DICOMDIR, which stands for its folder (its entries are not
            followed); or a DICOM file, which stands for those files of its series that lie beside it.

    Raises:
        InputError: no series, or several; or too many files or folders.
        OSError: the path cannot be read.
    """
    folder, series = path, None
    if not path.is_dir():
        header = dicom_header(path, TAGS)
        folder = path.parent
        if not _is_directory(path, header):
            if not _is_image(header):
                raise InputError(path, "is a DICOM file, but no slice of a CT.", "Give a file of the series, or its folder.")
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
            remarks.append(_unreadable(file, folder))  # pydicom reads a damaged file as far as it can
        elif not _is_image(header):
            others[line(attribute(header, "Modality")) or DIRECTORY_NAME] += 1
            placeless[_series_uid(header)] += bool(attribute(header, "Rows"))
        elif series is None or _series_uid(header) == series:
            found.setdefault(_series_uid(header), []).append((file, header))
        if len(found) > _MAX_SERIES:
            break
    if not found:
        beside = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        told = f"only DICOM files without slices ({beside})" if beside else "no DICOM file"
        raise InputError(path, f"holds no DICOM series: {told}.", _ONE)
    if len(found) > 1:
        raise InputError(path, _several(found, folder), "Give one file of the series that you want, or a folder with it alone.")
    ((uid, members),) = found.items()
    if placeless[uid]:
        remarks.append(f"{placeless[uid]} of its images have no ImagePositionPatient and are left out.")
    return SeriesFiles(tuple(members), tuple(remarks))


def _several(found: dict[str, list[tuple[Path, Dataset]]], folder: Path) -> str:
    count = f"more than {_MAX_SERIES}" if len(found) > _MAX_SERIES else str(len(found))
    told = []
    for members in list(found.values())[:_MAX_SERIES]:
        file, header = members[0]
        number, name = (line(attribute(header, tag), 40) for tag in ("SeriesNumber", "SeriesDescription"))
        files = "1 file" if len(members) == 1 else f"{len(members)} files"
        told.append(f"{number or '?'} {name or 'without description'!r} ({files}, such as {_name(file, folder)})")
    return f"holds slices of {count} series: {'; '.join(told)}."


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
    """Returns whether a file holds slices with positions, or frames that should have some."""
    if attribute(header, "SOPClassUID") in _DERIVED:
        return False
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header


def _series_uid(header: Dataset) -> str:
    return str(attribute(header, "SeriesInstanceUID") or "")
