"""The CT of a study as a series of single-frame CT images (PS3.3, A.3): headers, DICOM JSON and files.

All instances share one header; only instance UID, number and position differ. So the metadata of a series costs the header of
one instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from medsam2_atlas.base.version import package_version
from medsam2_atlas.dicom.instances.uids import FolderUids, instance_number, instance_uid
from medsam2_atlas.dicom.texts import decimal, line, person_name
from medsam2_atlas.imaging.volume import Geometry

WINDOW = (400, 40)
"""Width and level of the soft-tissue window in HU, with which viewers open the CT."""

_BITS = 16
_IMPLEMENTATION = "2.25.230574290411253984019046284906541733117"
"""The UID of this program in the files' meta information; a random one."""


@dataclass(frozen=True)
class StudyAbout:
    """The attributes of a study and its CT series that need no voxels.

    Attributes:
        name: the name of the study; also patient's name and ID, because a file contains neither.
        study: Study Instance UID.
        series: Series Instance UID.
        frame: Frame of Reference UID.
        size: number of voxels along (x, y, z) in LPS orientation.
    """

    name: str
    study: str
    series: str
    frame: str
    size: tuple[int, int, int]

    @classmethod
    def of(cls, name: str, uids: FolderUids, size: tuple[int, int, int]) -> StudyAbout:
        """Returns the attributes of a study. size: voxels along (x, y, z)."""
        return cls(name, uids.study(name), uids.series(name), uids.frame_of_reference(name), size)

    @cached_property
    def patient_level(self) -> Dataset:
        """The attributes of patient and study."""
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.PatientID = person_name(self.name), line(self.name)
        ds.PatientBirthDate, ds.PatientSex = "", ""
        ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime, ds.StudyID = self.study, "", "", ""
        ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyDescription = "", "", ""
        return ds

    @cached_property
    def series_level(self) -> Dataset:
        """The attributes of the CT series, without those of patient and study."""
        ds = Dataset()
        ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription = "CT", self.series, 1, "CT"
        ds.SeriesDate, ds.SeriesTime, ds.BodyPartExamined = "", "", ""
        ds.FrameOfReferenceUID = self.frame
        return ds


@dataclass(frozen=True)
class InstanceSeries:
    """A CT as a series of instances.

    Attributes:
        about: study and series.
        volume: UID that begins the instances' UIDs; see `FolderUids.volume`.
        geometry: the grid in LPS orientation; instance n is its slice z = n - 1.
        slope: the conversion from stored values to the file's values; see `values`.
        intercept: as `slope`.
    """

    about: StudyAbout
    volume: str
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def count(self) -> int:
        """The number of instances."""
        return self.geometry.size[2]

    def uid(self, number: int) -> str:
        """Returns the SOP Instance UID of an instance. number: from 1."""
        return instance_uid(self.volume, number)

    def number_of(self, uid: str) -> int | None:
        """Returns the number of the instance with a UID, from 1; None if the series has no such instance."""
        return instance_number(self.volume, uid, self.count)

    def position(self, number: int) -> tuple[float, float, float]:
        """Returns the centre of an instance's first pixel, (x, y, z) in mm, LPS. number: from 1."""
        x, y, z = self.geometry.to_world(np.array([0, 0, number - 1])).tolist()
        return x, y, z

    def header(self, number: int) -> Dataset:
        """Returns the header of an instance without its pixels. number: from 1."""
        ds = Dataset()
        ds.update(self._common)
        ds.update(self._own(number))
        return ds

    def headers(self) -> list[Dataset]:
        """Returns the headers of all instances, in ascending order, for objects that are derived from the series."""
        return [self.header(number) for number in range(1, self.count + 1)]

    def json(self, number: int) -> dict[str, Any]:
        """Returns the header of an instance as DICOM JSON (PS3.18, F). number: from 1."""
        return self._common_json | self._own(number).to_json_dict()

    def metadata(self) -> list[dict[str, Any]]:
        """Returns the headers of all instances as DICOM JSON, in ascending order."""
        return [self.json(number) for number in range(1, self.count + 1)]

    def file(self, number: int, plane: np.ndarray) -> bytes:
        """Returns an instance as a DICOM file.

        Args:
            number: its number, from 1.
            plane: its stored values, `[y, x]` int16.
        """
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(self.uid(number))
        meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(_IMPLEMENTATION)
        ds = FileDataset("", self.header(number), file_meta=meta, preamble=b"\0" * 128)
        ds.PixelData = pixels(plane)
        ds["PixelData"].VR = "OW"
        stream = BytesIO()
        ds.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    @cached_property
    def _common(self) -> Dataset:
        """The attributes that all instances share."""
        ds = Dataset()
        ds.update(self.about.patient_level)
        ds.update(self.about.series_level)
        ds.SOPClassUID, ds.ImageType, ds.LossyImageCompression = CTImageStorage, ["DERIVED", "SECONDARY", "AXIAL"], "00"
        ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "", "medsam2_atlas", package_version()
        ds.PositionReferenceIndicator, ds.PatientPosition, ds.AcquisitionNumber, ds.KVP = "", "", None, None
        axes, (dx, dy, dz) = np.asarray(self.geometry.direction).reshape(3, 3), self.geometry.spacing
        ds.ImageOrientationPatient = [decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
        ds.PixelSpacing, ds.SliceThickness = [decimal(dy), decimal(dx)], decimal(dz)
        ds.Columns, ds.Rows = self.geometry.size[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = _BITS, _BITS, _BITS - 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = decimal(self.slope), decimal(self.intercept), "HU"
        ds.WindowWidth, ds.WindowCenter = WINDOW
        return ds

    @cached_property
    def _common_json(self) -> dict[str, Any]:
        return dict(self._common.to_json_dict())

    def _own(self, number: int) -> Dataset:
        """Returns the attributes in which an instance differs from the others."""
        ds = Dataset()
        ds.SOPInstanceUID, ds.InstanceNumber = self.uid(number), number
        ds.ImagePositionPatient = [decimal(v) for v in self.position(number)]
        return ds


def pixels(plane: np.ndarray) -> bytes:
    """Returns stored values `[y, x]` int16 as the bytes of a frame: little endian, row by row, of even length."""
    return np.ascontiguousarray(plane, dtype="<i2").tobytes()
