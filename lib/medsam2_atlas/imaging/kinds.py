"""Recognises CTs and label maps by their file names, and explains why other image files are not used.

A file that is clearly not an image, such as a text or a table, needs no explanation. The voxels of images are not read here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""The suffixes of image and label files that are read and written."""

SEGMENTATION = ".seg.nrrd"
"""The suffix of 3D Slicer's segmentations: label maps that are read, but not written."""

LABEL_SUFFIXES = (SEGMENTATION, *SUFFIXES)
"""The suffixes of label files that are read."""

WRITTEN = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
"""The suffixes of image files as names may spell them: in lower or in upper case. ITK reads both."""

WRITTEN_LABELS = (SEGMENTATION, SEGMENTATION.upper(), *WRITTEN)
"""The suffixes of label files as names may spell them."""

_CONVERT = "Convert it to NIfTI, NRRD or MHA."
_SERIES = "Convert each series to NIfTI, NRRD or MHA, or serve it from a PACS."
_TWO_FILES = f"has its header and its voxels in two files. {_CONVERT}"
_ARCHIVE = "is an archive. Unpack it."
_PACKED = "is packed. Unpack it."
_TYPE = f"is of a type that is not read. {_CONVERT}"
_REASONS = {
    **dict.fromkeys((".mhd", ".nhdr", ".hdr"), _TWO_FILES),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), f"is a DICOM file. {_SERIES}"),
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".lz4"), _PACKED),
    **dict.fromkeys((".img", ".img.gz", ".raw", ".zraw"), f"has no header. {_CONVERT}"),
    **dict.fromkeys((".mgz", ".mgh", ".mnc", ".vtk", ".vti", ".gipl", ".par", ".rec"), _TYPE),
    **dict.fromkeys(
        (".tif", ".tiff", ".npy", ".npz", ".h5", ".hdf5"), f"is of a type without a reliable voxel grid. {_CONVERT}"
    ),
}
_NOT_USED = "is not used: it"
_VOXELS_OF = {
    ".img": (".hdr",),
    ".img.gz": (".hdr",),
    ".rec": (".par",),
    ".raw": (".mhd", ".nhdr"),
    ".zraw": (".mhd",),
    ".gz": (".nhdr",),
}
_PLAIN_WHEN_PACKED = (".txt", ".json", ".csv", ".tsv", ".log", ".md", ".xml", ".yaml", ".yml", ".html", ".pdf", ".sql")
_FIRST = 200
"""Max number of entries of a folder and its subfolders that are examined."""


def suffix_in(name: str, *, labels: bool = False) -> str:
    """Returns the suffix of an image file's name, in lower case; empty if the name has no such suffix.

    Args:
        name: name of the file.
        labels: whether suffixes of label files count, too.

    >>> suffix_in("CT.NII.GZ")
    '.nii.gz'
    """
    suffix = next((s for s in WRITTEN_LABELS if name.endswith(s)), "").lower()
    return suffix if labels or suffix != SEGMENTATION else ""


def stem_of(name: str) -> str:
    """Returns the name of a file without its image or label suffix, or without its last suffix if it has none of these."""
    suffix = suffix_in(name, labels=True)
    return name[: -len(suffix)] if suffix else os.path.splitext(name)[0]  # noqa: PTH122 called for many files


def unused_images(entries: Iterable[os.DirEntry[str]]) -> dict[str, str]:
    """Returns, by name, the reason why image files and folders are not used. All DICOM files share the entry of the first one.

    Args:
        entries: entries of one folder, without hidden ones and without names that `suffix_in` recognises. Links are not
            followed.
    """
    found: dict[str, str] = {}
    dicom: list[str] = []
    entries = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name.lower() for entry in entries}
    for entry in entries:
        try:
            reason = _reason(entry, names)
        except OSError:
            continue  # it was just removed, or cannot be read
        if reason == _REASONS[".dcm"]:
            dicom.append(entry.name)
        elif reason:
            found[entry.name] = f"{_NOT_USED} {reason}"
    if len(dicom) == 1:
        found[dicom[0]] = f"{_NOT_USED} {_REASONS['.dcm']}"
    elif dicom:
        found[dicom[0]] = f"{_NOT_USED} is the first of {len(dicom)} DICOM files. {_SERIES}"
    return found


def _reason(entry: os.DirEntry[str], names: set[str]) -> str:
    """Returns the reason why an entry is not used; empty if it is clearly no image. names: of all entries, in lower case."""
    if entry.is_dir():
        if entry.is_symlink():
            return "is a link to a folder. If it contains images, put links to the files themselves here."
        return _folder_reason(entry.path, entry.stat().st_mtime_ns)
    if not entry.is_file():
        return ""
    reason = _file_reason(entry.name, names)
    if not reason and not entry.is_symlink() and ("." not in entry.name or entry.name.rpartition(".")[2].isdigit()):
        state = entry.stat()
        if _is_dicom(entry.path, state.st_size, state.st_mtime_ns):
            return _REASONS[".dcm"]
    return reason


def _file_reason(name: str, names: set[str]) -> str:
    """Returns the reason why a file is not used; empty if it is clearly not an image, or belongs to a listed header file."""
    lower = name.lower()
    if name.endswith((SEGMENTATION, SEGMENTATION.upper())):
        return "is a segmentation, not a CT. Move it to the label maps, and give it the name of its CT."
    if lower.endswith(SUFFIXES):
        return "has a suffix that mixes lower and upper case. Rename it."
    suffix = next((s for s in sorted(_REASONS, key=len, reverse=True) if lower.endswith(s)), "")
    stem = lower.removesuffix(suffix)
    if suffix == ".gz" and stem.endswith(_PLAIN_WHEN_PACKED):
        return ""
    if any(stem.removesuffix(".raw") + header in names for header in _VOXELS_OF.get(suffix, ())):
        return ""
    return _REASONS.get(suffix, "")


@lru_cache(maxsize=4096)
def _folder_reason(path: str, _changed: int) -> str:
    """Returns the reason why a folder is not used; empty if its first files are no images. _changed: time of last change."""
    for entry in _first_files(path):
        name = entry.name.lower()
        if suffix_in(entry.name):
            return "is a folder that contains images. Move them up: only files in the top folder are studies."
        state = entry.stat(follow_symlinks=False)
        if name.endswith((".dcm", ".ima")) or name == "dicomdir" or _is_dicom(entry.path, state.st_size, state.st_mtime_ns):
            return f"is a folder of DICOM files. {_SERIES}"
    return ""


def _first_files(path: str) -> Iterator[os.DirEntry[str]]:
    """Yields the first files of a folder and its subfolders."""
    folders, seen = [path], 0
    while folders and seen < _FIRST:
        with os.scandir(folders.pop(0)) as entries:
            for entry in entries:
                seen += 1
                if seen > _FIRST:
                    return
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    yield entry


@lru_cache(maxsize=4096)
def _is_dicom(path: str, size: int, _changed: int) -> bool:
    """Returns whether a file begins like a DICOM file. _changed: time of its last change."""
    if size < 132:
        return False
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 called for many files
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
