"""Reads an annotated CT (image, label map and checksums), each file once.

A file is hashed, then decoded in a reader process. If it changes in the meantime, the case is refused, because the checksum
would not belong to the voxels. To save memory, only the CT's working image is kept, and the label map stays compressed until
its registration is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.atlas.reference import ReferenceFiles
from medsam2_atlas.base.choices import Sex
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.cropped_map import Box, shape_of, within
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.hounsfield import HuRule, to_hu
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.imaging.volume import Geometry, Volume, read_labels, read_volume
from medsam2_atlas.registration import RegistrationConfig, WorkImage


@dataclass(frozen=True)
class Snapshot:
    """The state of a path's files at one point in time.

    Attributes:
        path: a file, or the folder of a series.
        sha256: the checksum of the file; empty for a folder.
        states: the states of all files that are read from the path, recorded before they are read.
    """

    path: Path
    sha256: str
    states: tuple[tuple[object, ...], ...]

    @classmethod
    def of(cls, path: Path) -> Snapshot:
        """Records the states of a path's files, and hashes a file.

        Raises:
            InputError: the folder has too many files.
            OSError: the path cannot be read.
        """
        states = _states(path)
        return cls(path, sha256(path) if path.is_file() else "", states)

    def check(self) -> None:
        """Checks that the files have not changed since the snapshot.

        Raises:
            InputError: the files have changed.
            OSError: the files cannot be accessed.
        """
        if _states(self.path) != self.states:
            raise InputError(
                self.path,
                "changed while it was read.",
                "Try again when the other program has finished writing it; nothing is lost.",
            )


def _states(path: Path) -> tuple[tuple[object, ...], ...]:
    return (path.stat().st_ino,), *file_states(path)


class Snapshots:
    """A cache of snapshots: a file is hashed again only if it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, Snapshot] = {}

    def of(self, path: Path) -> Snapshot:
        """Returns the current snapshot of a path; see `Snapshot.of` for the errors."""
        known = self._known.get(path)
        if known is None or _states(path) != known.states:
            known = self._known[path] = Snapshot.of(path)
        return known


@dataclass(frozen=True)
class PackedLabels:
    """A label map, cropped to its organs and compressed until its registration is known.

    Attributes:
        geometry: the grid of the whole label map.
        boxes: the box (z, y, x) by organ number on that grid, with a margin of one voxel.
        crop: the box (z, y, x) that contains all of them.
        data: the voxels in `crop`, uint8, compressed.
    """

    geometry: Geometry
    boxes: dict[int, Box]
    crop: Box
    data: bytes

    @classmethod
    def of(cls, label: Volume) -> PackedLabels:
        """Packs a label map that contains at least one organ."""
        boxes = {}
        for k in organs_of(label.array):
            box = occupied(label.array == k, margin=1)
            assert box is not None, "the label map contains the organ"
            boxes[k] = box
        crop = tuple(
            slice(min(box[axis].start for box in boxes.values()), max(box[axis].stop for box in boxes.values()))
            for axis in range(3)
        )
        return cls(label.geometry, boxes, crop, zlib.compress(label.array[crop].tobytes(), 1))

    @property
    def organs(self) -> tuple[int, ...]:
        """The organ numbers, ascending."""
        return tuple(self.boxes)

    def voxels(self) -> np.ndarray:
        """Returns the voxels in `crop`, `[z, y, x]` uint8."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(shape_of(self.crop))

    def within(self, box: Box) -> Box:
        """Converts a box of the whole label map to a box of `voxels()`."""
        return within(self.crop, box)


def organs_of(labels: np.ndarray) -> tuple[int, ...]:
    """Returns the values above 0 in a label map `[z, y, x]` uint8, ascending. Counting by slice is faster than sorting.

    Examples:
        >>> organs_of(np.array([[[0, 6, 1]], [[6, 0, 0]]], np.uint8))
        (1, 6)
    """
    present = np.zeros(256, bool)
    for plane in labels:
        present |= np.bincount(plane.ravel(), minlength=256) > 0
    return tuple(int(k) for k in np.flatnonzero(present) if k)


@dataclass(frozen=True)
class AnnotatedCT:
    """An annotated CT that was read for an atlas.

    Attributes:
        name: the name of the case.
        work: the CT on its working grid.
        labels: the label map.
        sha256: the checksum of the label file.
        image_sha256: the checksum of the image file; empty for a folder.
        hu_offset: the offset in HU that was added to the file's values.
        sex: the sex of the patient; None if it was not given.
    """

    name: str
    work: WorkImage
    labels: PackedLabels
    sha256: str
    image_sha256: str
    hu_offset: float = 0.0
    sex: Sex | None = None


def read_annotated(
    files: ReferenceFiles, registration: RegistrationConfig, table: OrganTable, hu: HuRule, snapshots: Snapshots
) -> AnnotatedCT:
    """Reads an annotated CT.

    Args:
        files: the files of the case.
        registration: the registration parameters, which define the working grid.
        table: the organs that a label map may contain.
        hu: how the values are converted to HU.
        snapshots: the cache of snapshots.

    Raises:
        InputError: a file cannot be used or changes while it is read, the values are not HU, or the label map is empty or has
            labels that are missing from the organ table.
        OSError: a file cannot be read.
    """
    image, image_sha256 = _read(files.image, snapshots, read_volume)
    label, label_sha256 = _read(files.label, snapshots, lambda path: read_labels(path, image))
    table.check(files.label, organs_of(label.array))
    labels = PackedLabels.of(label)
    image = to_hu(image, hu)
    offset = float(image.hu["offset"]) if image.hu is not None else 0.0
    work = WorkImage.of(image, registration.spacing, registration.image)
    return AnnotatedCT(files.name, work, labels, label_sha256, image_sha256, offset, files.sex)


def _read(path: Path, snapshots: Snapshots, decode: Callable[[Path], Volume]) -> tuple[Volume, str]:
    """Returns the volume in a path, and the path's checksum."""
    try:
        before = snapshots.of(path)
    except OSError:
        decode(path)  # raises a more specific error
        raise
    volume = decode(path)
    before.check()
    return volume, before.sha256
