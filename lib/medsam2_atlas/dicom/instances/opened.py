"""A decoded CT whose instances can be sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medsam2_atlas.dicom.instances.pictures import slice_picture
from medsam2_atlas.dicom.instances.series import InstanceSeries, StudyAbout, pixels
from medsam2_atlas.dicom.instances.uids import FolderUids
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import Geometry, Volume, write_volume


@dataclass(frozen=True)
class DecodedCt:
    """The voxels of a CT's file.

    Attributes:
        array: stored values, `[z, y, x]` int16 in LPS orientation.
        geometry: the grid of `array`.
        file_geometry: the grid of the file.
        slope: the conversion from stored values to the file's values; see `values`.
        intercept: as `slope`.
    """

    array: np.ndarray
    geometry: Geometry
    file_geometry: Geometry
    slope: float
    intercept: float


@dataclass(frozen=True)
class OpenSeries:
    """A CT as a series of instances with their voxels.

    Attributes:
        series: the instances; instance n is slice z = n - 1.
        ct: the voxels.
    """

    series: InstanceSeries
    ct: DecodedCt

    @classmethod
    def of(cls, name: str, uids: FolderUids, checksum: str, ct: DecodedCt) -> OpenSeries:
        """Returns the instances of a CT.

        Args:
            name: the name of the study.
            uids: the folder's UIDs.
            checksum: the SHA-256 of the file.
            ct: the voxels of the file.
        """
        about = StudyAbout.of(name, uids, ct.geometry.size)
        return cls(InstanceSeries(about, uids.volume(name, checksum), ct.geometry, ct.slope, ct.intercept), ct)

    @property
    def bytes_in_memory(self) -> int:
        """The number of bytes of the voxels."""
        return int(self.ct.array.nbytes)

    def frame(self, number: int) -> bytes:
        """Returns the pixels of an instance: 16-bit integers, little endian, row by row. number: from 1."""
        return pixels(self.ct.array[number - 1])

    def file(self, number: int) -> bytes:
        """Returns an instance as a DICOM file. number: from 1."""
        return self.series.file(number, self.ct.array[number - 1])

    def picture(self, number: int, kind: Literal["JPEG", "PNG"], size: int | None = None) -> bytes:
        """Returns an instance as a picture; see `slice_picture`.

        Args:
            number: its number, from 1.
            kind: the file format.
            size: max width and height in pixels; the slice's own by default.
        """
        return slice_picture(self.series, self.ct.array[number - 1], kind, size)


def decode_ct(file: Path) -> DecodedCt:
    """Returns the voxels of a CT's file; a reader process decodes it.

    Raises:
        InputError: the file cannot be read as a CT.
        UnavailableError: all reader processes are busy.
        OSError: the file cannot be read from its disk.
    """
    content, (array,) = run_task("stored_volume", file, path=str(file.absolute()))
    grid, filed = (Geometry.parse(content[key]) for key in ("geometry", "file_geometry"))
    return DecodedCt(array, grid, filed, float(content["slope"]), float(content["intercept"]))


def grid_seg_to_file(seg: Path, opened: OpenSeries, label: Path) -> None:
    """Writes the label map of a DICOM SEG that was drawn on a CT's instances, on the grid of the CT's file.

    Args:
        seg: the DICOM file; a reader process decodes it.
        opened: the CT.
        label: the image file to write.

    Raises:
        InputError: the object is not a SEG of these instances, or a segment that is not an organ is not empty.
    """
    grid = opened.ct.geometry
    _, (array,) = run_task("grid_seg", seg, path=str(seg), geometry=asdict(grid), volume=opened.series.volume)
    write_volume(Volume(array, grid, opened.ct.file_geometry), label)
