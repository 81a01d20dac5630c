"""Writes CT series in the format of a scanner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

Change = Callable[[Dataset, int], None]

_IN_GROUPS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType"),
)


def through_a_file(ds: Dataset) -> Dataset:
    """Returns a data set after writing it to a file and reading it again."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return pydicom.dcmread(stream)


def in_one_slice(tag: str, value: object) -> Change:
    """Returns a change that sets an attribute of the fourth slice."""

    def change(ds: Dataset, n: int) -> None:
        if n == 3:
            setattr(ds, tag, value)

    return change


def upright(array: np.ndarray, spacing: tuple[float, float, float] = (1.5, 2.0, 3.0)) -> sitk.Image:
    """Returns an array `[z, y, x]` as an axial image. spacing: (x, y, z) in mm."""
    image = sitk.GetImageFromArray(array.astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-10.0, -20.0, 30.0))
    return image


def compress(file: Path, compressor: str = "JPEG2000") -> None:
    """Compresses the pixels of a DICOM file without loss: `JPEG2000`, or `JPEG` for JPEG lossless. Other attributes stay."""
    ds = pydicom.dcmread(file)
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(1, ds.Rows, ds.Columns)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(file))
    writer.Execute(sitk.GetImageFromArray(stored))
    made = pydicom.dcmread(file)
    ds.PixelData, ds.file_meta.TransferSyntaxUID = made.PixelData, made.file_meta.TransferSyntaxUID
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(file)


def write_series(folder: Path, image: sitk.Image, change: Change | None = None, name: str = "") -> list[Path]:
    """Writes an image slice by slice, and returns the files. change: alters each data set, given its number, before saving."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    array = sitk.GetArrayFromImage(image)
    axes = np.array(image.GetDirection()).reshape(3, 3)
    files = []
    for n, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = pydicom.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.Modality, ds.InstanceNumber, ds.PatientID, ds.PatientName = "CT", n + 1, "T-001", "TEST^PHANTOM"
        ds.PatientBirthDate, ds.PatientSex, ds.StudyID, ds.AccessionNumber = "", "O", "1", ""
        ds.ReferringPhysicianName, ds.StudyDate, ds.StudyTime = "", "20260101", "120000"
        ds.SeriesNumber, ds.SeriesDescription, ds.Manufacturer = 1, "abdomen", "none"
        ds.PositionReferenceIndicator, ds.ImageType, ds.AcquisitionNumber, ds.KVP = (
            "",
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            1,
            None,
        )
        ds.ImagePositionPatient = [f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, n))]
        ds.ImageOrientationPatient = [f"{v:.6f}" for v in (*axes[:, 0], *axes[:, 1])]
        ds.PixelSpacing = [image.GetSpacing()[1], image.GetSpacing()[0]]
        ds.SliceThickness = image.GetSpacing()[2]
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.WindowCenter, ds.WindowWidth = 40, 400
        ds.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
        if change is not None:
            change(ds, n)
        file = folder / f"{name}{n:03d}.dcm"
        ds.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def write_enhanced(
    folder: Path,
    image: sitk.Image,
    change: Change | None = None,
    *,
    order: Sequence[int] | None = None,
    files: int = 1,
    sop_class: str = EnhancedCTImageStorage,
) -> list[Path]:
    """Writes an image as multi-frame files of one series, and returns the files.

    Args:
        folder: the folder to write to.
        image: the image to write.
        change: alters the data set of a file, given its number, before it is saved.
        order: order of the frames; that of the slices by default.
        files: number of files of a concatenation that contain the frames.
        sop_class: SOP class of the files.
    """
    with TemporaryDirectory() as single:
        slices = [pydicom.dcmread(file) for file in write_series(Path(single), image)]
    slices = [slices[n] for n in order or range(len(slices))]
    size = -(-len(slices) // files)
    whole, paths = generate_uid(), []
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(files):
        part = slices[n * size : (n + 1) * size]
        ds = _enhanced(part, sop_class)
        if files > 1:
            ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = whole, whole
            ds.InConcatenationNumber, ds.InConcatenationTotalNumber = n + 1, files
            ds.ConcatenationFrameOffsetNumber = n * size
        if change is not None:
            change(ds, n)
        paths.append(folder / f"enhanced{n}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def _enhanced(slices: Sequence[Dataset], sop_class: str) -> pydicom.FileDataset:
    """Returns a multi-frame image of slices, with their attributes in functional groups."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = pydicom.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.update(slices[0])
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = sop_class, meta.MediaStorageSOPInstanceUID, 1
    for tag in _IN_GROUPS:
        del ds[tag]
    ds.NumberOfFrames, ds.PixelData = len(slices), b"".join(one.PixelData for one in slices)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_group(slices[0], "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_group(slices[0], "PixelSpacing", "SliceThickness")]
    shared.PixelValueTransformationSequence = [_group(slices[0], "RescaleIntercept", "RescaleSlope", "RescaleType")]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for n, one in enumerate(slices):
        own, content = Dataset(), Dataset()
        own.PlanePositionSequence = [_group(one, "ImagePositionPatient")]
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", one.InstanceNumber, [1, n + 1]
        own.FrameContentSequence = [content]
        groups.append(own)
    ds.PerFrameFunctionalGroupsSequence = groups
    organisation = Dataset()
    organisation.DimensionOrganizationUID = generate_uid()
    ds.DimensionOrganizationSequence = [organisation]
    ds.DimensionIndexSequence = [_dimension(organisation, tag) for tag in ("StackID", "InStackPositionNumber")]
    return ds


def _group(ds: Dataset, *tags: str) -> Dataset:
    group = Dataset()
    for tag in tags:
        setattr(group, tag, ds[tag].value)
    return group


def _dimension(organisation: Dataset, tag: str) -> Dataset:
    index = Dataset()
    index.DimensionIndexPointer, index.FunctionalGroupPointer = tag_for_keyword(tag), tag_for_keyword("FrameContentSequence")
    index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
    return index
