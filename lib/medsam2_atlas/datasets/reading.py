"""Reads a case of a download: image and organs, checked, in LPS orientation, without resampling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import opened, stream_sha256
from medsam2_atlas.datasets.finding import CaseFiles
from medsam2_atlas.datasets.layout import Layout
from medsam2_atlas.datasets.record import SourceFile
from medsam2_atlas.imaging.decoding import file_states, is_segmentation
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels

_EXACT = 2**24
"""Float32 represents whole numbers up to this one exactly."""


@dataclass(frozen=True)
class Sources:
    """The files of a case with their checksums.

    Attributes:
        image: the CT.
        labels: the label map or the masks, in the order of `CaseFiles.labels`.
        states: size and time of change of each file before it was hashed.
    """

    image: SourceFile
    labels: tuple[SourceFile, ...]
    states: tuple[object, ...]

    @classmethod
    def of(cls, case: CaseFiles, folder: Path) -> Sources:
        """Hashes the files of a case. folder: the folder of the download.

        Raises:
            OSError: a file cannot be read, or is not a regular file.
        """
        states = _states(case)
        image, *labels = (_hashed(file, folder) for file in _files(case))
        return cls(image, tuple(labels), states)

    def check(self, case: CaseFiles) -> None:
        """Checks that no file has changed since it was hashed, so that the checksums are those of the decoded voxels.

        Raises:
            InputError: a file has changed.
            OSError: a file cannot be accessed.
        """
        if _states(case) != self.states:
            raise InputError(case.name, "changed while it was read.", "Run the command again when the download has finished.")


@dataclass(frozen=True)
class ReadCase:
    """A case that was read.

    Attributes:
        image: the CT in LPS orientation: HU, `[z, y, x]`; integers if all values are whole numbers.
        label: the label map on the grid of the CT: our organ numbers, `[z, y, x]` uint8.
        organs: the numbers of the organs in it, ascending.
        voxels: the hash of the CT's voxels.
        hu_offset: the number in HU that was added to the file's values.
        remarks: corrections that were made while the files were read, as sentences.
    """

    image: Volume
    label: Volume
    organs: tuple[int, ...]
    voxels: str
    hu_offset: float
    remarks: tuple[str, ...]


def read_case(case: CaseFiles, layout: Layout, hu: HuRule) -> ReadCase:
    """Reads and checks a case; reader processes decode its files.

    Args:
        case: the files of the case.
        layout: the layout of the data set, which tells the organ of each label value or mask.
        hu: how the values of the CT become HU.

    Raises:
        InputError: a file cannot be read, the grids differ, the values of the CT are not HU, or the label map has unknown
            values or no organ.
    """
    ct = read_ct(case.image, hu)
    labels, remarks = _labels(case, layout, ct)
    table, organs = organ_table(), _present(labels)
    table.check(case.labels[0][1] if len(case.labels) == 1 else case.labels[0][1].parent, organs)
    array = _whole(ct.array)
    offset = float(ct.hu["offset"]) if ct.hu is not None else 0.0
    grid = ct.geometry
    return ReadCase(
        Volume(array, grid, grid, ct.source),
        Volume(labels, grid, grid, ct.source),
        organs,
        _hash(array),
        offset,
        (*ct.remarks, *remarks),
    )


def _labels(case: CaseFiles, layout: Layout, ct: Volume) -> tuple[np.ndarray, list[str]]:
    """Returns the label map of a case, `[z, y, x]` uint8 organ numbers on the grid of the CT, and remarks."""
    if not layout.masks:
        ((_, file),) = case.labels
        found = _read(file, ct)
        return _mapped(file, found.array, layout), list(found.remarks)
    table = organ_table()
    merged, remarks = np.zeros(ct.array.shape, np.uint8), list[str]()
    for organ, file in case.labels:
        mask = _read(file, ct)
        if len(values := _present(mask.array)) > 1:
            raise InputError(file, f"is not a mask: it has the values {list(values)}.", "A mask has one value besides 0.")
        inside = mask.array > 0
        for other in _present(np.where(inside, merged, np.uint8(0))):
            shared = int(((merged == other) & inside).sum())
            remarks.append(
                f"The masks of {table[other].name} and {table[organ].name} share {shared} voxels; they became the latter's."
            )
        merged[inside] = organ
        remarks += [f"{file.name}: {remark}" for remark in mask.remarks]
    return merged, remarks


def _read(file: Path, ct: Volume) -> Volume:
    if file.name.lower().endswith(".nrrd") and is_segmentation(file):
        raise InputError(
            file,
            "is a segmentation of 3D Slicer, whose segments are named, not numbered.",
            "Export it as a label map with the values of the layout.",
        )
    return read_labels(file, ct)


def _mapped(file: Path, values: np.ndarray, layout: Layout) -> np.ndarray:
    """Returns our organ numbers for the values of a label map, both `[z, y, x]` uint8."""
    known = {0, *layout.values, *layout.ignored_values}
    if strange := sorted({*_present(values)} - known):
        raise InputError(
            file,
            f"contains values {strange} that {layout.title} does not have.",
            "Choose the layout of this data set, or describe it in a YAML file of your own.",
        )
    by_name = {organ.name: organ.index for organ in organ_table().organs}
    ours = np.zeros(256, np.uint8)
    for value, organ in layout.values.items():
        ours[value] = by_name[organ]
    return ours[values]


def _present(labels: np.ndarray) -> tuple[int, ...]:
    """Returns the values above 0 of a label map `[z, y, x]` uint8, ascending. Counting by slice saves memory."""
    held = np.zeros(256, bool)
    for plane in labels:
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    return tuple(int(value) for value in np.flatnonzero(held) if value)


def _whole(values: np.ndarray) -> np.ndarray:
    """Returns values `[z, y, x]` as int16 or int32 if all are whole numbers, else unchanged (float32)."""
    if any((plane != np.rint(plane)).any() for plane in values):
        return values
    low, high = float(values.min()), float(values.max())
    if np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max:
        return values.astype(np.int16)
    return values.astype(np.int32) if max(-low, high) < _EXACT else values


def _hash(values: np.ndarray) -> str:
    """Returns the hash of voxels `[z, y, x]` without their grid: a copy with rounded or shifted geometry is the same image."""
    digest = hashlib.blake2b(repr((values.dtype.str, values.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _files(case: CaseFiles) -> list[Path]:
    return [case.image, *(file for _, file in case.labels)]


def _states(case: CaseFiles) -> tuple[object, ...]:
    return tuple((file.stat().st_ino, *file_states(file)) for file in _files(case))


def _hashed(file: Path, folder: Path) -> SourceFile:
    with opened(file, follow=True) as stream:  # links were checked to stay in the folder
        return SourceFile(file=file.relative_to(folder).as_posix(), sha256=stream_sha256(stream))
