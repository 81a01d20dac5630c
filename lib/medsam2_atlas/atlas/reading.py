"""Reads an annotated CT: image, label map and checksums, each file once.

A file is hashed, then decoded in a reader process. If it changes between the start and the end of that, the case is refused: a
checksum belongs to the voxels that were read with it. Of the CT, only the working grid is kept; the label map is kept
compressed until its registration is known, so that many references fit into memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.atlas.reference import ReferenceFiles
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
    """The files of a path at one time.

    Attributes:
        path: of a file or of the folder of a series.
        sha256: checksum of the file; empty for a folder.
        states: of all files that are read from the path, from before they were read.
    """

    path: Path
    sha256: str
    states: tuple[tuple[object, ...], ...]

    @classmethod
    def of(cls, path: Path) -> Snapshot:
        """Hashes a file.

        Raises:
            InputError: a folder with too many files.
            OSError: it cannot be read.
        """
        states = _states(path)
        return cls(path, sha256(path) if path.is_file() else "", states)

    def check(self) -> None:
        """Checks that the files are still those that were hashed.

        Raises:
            InputError: they have changed.
            OSError: they cannot be looked at.
        """
        if _states(self.path) != self.states:
            raise InputError(
                self.path, "changed while it was read.", "Try again when whatever writes it has finished; nothing is lost."
            )


def _states(path: Path) -> tuple[tuple[object, ...], ...]:
    return (path.stat().st_ino,), *file_states(path)


class Snapshots:
    """The snapshots of files that were hashed already: a file is hashed again only if it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, Snapshot] = {}

    def of(self, path: Path) -> Snapshot:
        """Returns the snapshot of a path; see `Snapshot.of` for the errors."""
        known = self._known.get(path)
        if known is None or _states(path) != known.states:
            known = self._known[path] = Snapshot.of(path)
        return known


@dataclass(frozen=True)
class PackedLabels:
    """A label map that waits for its registration: cropped to its organs and compressed.

    Attributes:
        geometry: grid of the whole label map.
        boxes: `(z, y, x)` of each organ on that grid, with a margin of one voxel.
        crop: `(z, y, x)` of all of them.
        data: the voxels of `crop`, unsigned 8-bit, compressed.
    """

    geometry: Geometry
    boxes: dict[int, Box]
    crop: Box
    data: bytes

    @classmethod
    def of(cls, label: Volume) -> PackedLabels:
        """Packs a label map that holds at least one organ."""
        boxes = {}
        for k in organs_of(label.array):
            box = occupied(label.array == k, margin=1)
            assert box is not None, "the organ is in the label map"
            boxes[k] = box
        crop = tuple(
            slice(min(box[axis].start for box in boxes.values()), max(box[axis].stop for box in boxes.values()))
            for axis in range(3)
        )
        return cls(label.geometry, boxes, crop, zlib.compress(label.array[crop].tobytes(), 1))

    @property
    def organs(self) -> tuple[int, ...]:
        """Numbers of the organs, ascending."""
        return tuple(self.boxes)

    def voxels(self) -> np.ndarray:
        """Returns the voxels of `crop`, `[z, y, x]` uint8."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(shape_of(self.crop))

    def within(self, box: Box) -> Box:
        """Returns a box of the whole label map as a box of `voxels()`."""
        return within(self.crop, box)


def organs_of(labels: np.ndarray) -> tuple[int, ...]:
    """Returns the values above 0 of a label map `[z, y, x]` uint8, ascending; counted slice by slice, without a sort."""
    held = np.zeros(256, bool)
    for plane in labels:
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    return tuple(int(k) for k in np.flatnonzero(held) if k)


@dataclass(frozen=True)
class AnnotatedCT:
    """An annotated CT that was read for an atlas.

    Attributes:
        name: of the case.
        work: the CT on its working grid.
        labels: its label map.
        sha256: checksum of the label file.
        image_sha256: checksum of the image file; empty for a folder.
        hu_offset: number that was added to the file's values.
    """

    name: str
    work: WorkImage
    labels: PackedLabels
    sha256: str
    image_sha256: str
    hu_offset: float = 0.0


def read_annotated(
    files: ReferenceFiles, registration: RegistrationConfig, table: OrganTable, hu: HuRule, snapshots: Snapshots
) -> AnnotatedCT:
    """Reads an annotated CT.

    Args:
        files: of the case.
        registration: gives the working grid.
        table: the organs that a label map may hold.
        hu: how the values become HU.
        snapshots: of files that were hashed already.

    Raises:
        InputError: a file that cannot be used or that changes while it is read, values that are no HU, an empty label map, or
            labels that the organ table lacks.
        OSError: a file cannot be read.
    """
    image, image_sha256 = _read(files.image, snapshots, read_volume)
    label, label_sha256 = _read(files.label, snapshots, lambda path: read_labels(path, image))
    table.check(files.label, organs_of(label.array))
    labels = PackedLabels.of(label)
    image = to_hu(image, hu)
    offset = float(image.hu["offset"]) if image.hu is not None else 0.0
    work = WorkImage.of(image, registration.spacing, registration.image)
    return AnnotatedCT(files.name, work, labels, label_sha256, image_sha256, offset)


def _read(path: Path, snapshots: Snapshots, decode: Callable[[Path], Volume]) -> tuple[Volume, str]:
    """Returns a path's content with its checksum."""
    try:
        before = snapshots.of(path)
    except OSError:
        decode(path)  # its error says more
        raise
    volume = decode(path)
    before.check()
    return volume, before.sha256
