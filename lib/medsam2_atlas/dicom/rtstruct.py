"""Writes and reads RT structure sets: outlines of the organs for planning systems.

Outlines run half-way between the centres of pixels inside and outside, so that testing pixel centres against the outlines
restores the label map voxel by voxel. Holes are separate outlines. An organ with holes is written as CLOSEDPLANAR_XOR (PS3.3,
C.8.8.6.3), other organs as CLOSED_PLANAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.dicom.codes import property_type
from medsam2_atlas.dicom.origin import LabelOrigin, derived_uid, person
from medsam2_atlas.dicom.references import image_reference, instance_references
from medsam2_atlas.dicom.series import Slice, find_series
from medsam2_atlas.dicom.series_labels import on_series
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.imaging.labels import Organ, OrganTable, organ_table

_SERIES_NUMBER = 901
_STUDY_TAGS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_XOR, _PLAIN = "CLOSEDPLANAR_XOR", "CLOSED_PLANAR"


def write_rtstruct(
    labels: sitk.Image, series: Path | Sequence[Dataset], origin: LabelOrigin, table: OrganTable | None = None
) -> Dataset:
    """Returns a label map as an RT structure set that refers to a series.

    Each organ of the table is a region with the organ's number; organs that are missing from the label map have no outlines.

    Args:
        labels: the label map on the series' own grid, as `read_volume(folder)` returns it; may be empty.
        series: the folder of the series, or its headers from `source_headers`.
        origin: the origin of the label map, which the structure set records.
        table: the organs; those of `configs/labels.yaml` by default.

    Raises:
        InputError: the series is not a volume, or the label map does not fit it.
    """
    table = table or organ_table()
    sources, masks = on_series(labels, series, table)
    ds = _structure_set(sources, origin)
    ds.StructureSetROISequence = DicomSequence(_region(organ, ds, origin) for organ in table.organs)
    ds.ROIContourSequence = DicomSequence(_outlined(organ, masks == organ.index, sources) for organ in table.organs)
    ds.RTROIObservationsSequence = DicomSequence(_observation(organ) for organ in table.organs)
    return ds


def read_rtstruct(ds: Dataset, folder: Path, table: OrganTable | None = None) -> np.ndarray:
    """Reads the label map of an RT structure set, on the grid of a series.

    Regions are identified by their names; regions that are not organs of the table are skipped. In overlaps, the organ with the
    higher number wins.

    Args:
        ds: the structure set.
        folder: the folder of the series that it refers to.
        table: the organs; those of `configs/labels.yaml` by default.

    Returns:
        `[slices, rows, columns]` uint8, in the series' order.

    Raises:
        InputError: the object is not a structure set, or an outline is not on any slice of the series.
    """
    table = table or organ_table()
    if ds.get("Modality") != "RTSTRUCT":
        raise InputError("file", "is not an RT structure set.", "Give a file of the modality RTSTRUCT.")
    series = find_series(folder)
    to_pixel, normal = _pixel_axes(series.slices[0])
    places = np.array([part.position for part in series.slices])
    heights = places @ normal
    names = {o.display.lower(): o.index for o in table.organs} | {o.name: o.index for o in table.organs}
    organs = {int(item.ROINumber): names.get(str(item.ROIName).strip().lower(), 0) for item in ds.StructureSetROISequence}
    labels = np.zeros(series.grid.shape, np.uint8)
    for region in sorted(ds.ROIContourSequence, key=lambda item: organs.get(int(item.ReferencedROINumber), 0)):
        organ = organs.get(int(region.ReferencedROINumber), 0)
        mask = np.zeros(labels.shape, bool)
        for contour in region.get("ContourSequence", ()) if organ else ():
            points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
            distance = np.abs(heights - float(points[0] @ normal))
            if distance.min() > 0.5 * float(np.diff(heights).min()):
                raise InputError(
                    "structure set",
                    "has an outline that is not on any slice of the series.",
                    "Give the folder of the series on which it was drawn.",
                )
            z = int(distance.argmin())
            mask[z] ^= polygon2mask(labels.shape[1:], (points - places[z]) @ to_pixel)
        labels[mask] = organ
    return labels


def _structure_set(sources: Sequence[Dataset], origin: LabelOrigin) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    first, now = sources[0], datetime.now(timezone.utc)
    for tag in _STUDY_TAGS:
        setattr(ds, tag, first.get(tag, ""))
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "RTSTRUCT", _SERIES_NUMBER, origin.version
    ds.SeriesInstanceUID = derived_uid(f"rtstruct/{first.SeriesInstanceUID}/{origin.tag}")
    ds.SeriesDescription = line(f"{origin.tag[:40]} (medsam2_atlas)")
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    ds.Manufacturer = ds.ManufacturerModelName = "medsam2_atlas"
    ds.SoftwareVersions, ds.OperatorsName = package_version(), person(origin.author)
    ds.StructureSetLabel = line(origin.tag, 16) or "label"
    ds.StructureSetName = line(f"{origin.tag[:40]}, version {origin.version}")
    ds.StructureSetDate, ds.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    ds.ApprovalStatus = "UNAPPROVED"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = instance_references(sources)
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # the retired study management class, which PS3.3 still requires
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = DicomSequence([study])
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    return ds


def _region(organ: Organ, ds: Dataset, origin: LabelOrigin) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = organ.index, organ.display
    item.ReferencedFrameOfReferenceUID = ds.FrameOfReferenceUID
    item.ROIGenerationAlgorithm = origin.made
    if origin.made != "MANUAL":
        item.ROIGenerationDescription = line(origin.model) or "medsam2_atlas"
    return item


def _outlined(organ: Organ, mask: np.ndarray, sources: Sequence[Dataset]) -> Dataset:
    """Returns the outlines of an organ's region. mask: `[slices, rows, columns]` bool, in the order of `sources`."""
    item = Dataset()
    item.ReferencedROINumber, item.ROIDisplayColor = organ.index, list(organ.colour)
    found = [(n, outlines) for n in np.flatnonzero(mask.any((1, 2))).tolist() if (outlines := outlines_of(mask[n]))]
    kind = _XOR if any(_has_holes(outlines) for _, outlines in found) else _PLAIN
    contours = []
    for n, outlines in found:
        place, along, down = _axes(sources[n])
        for outline in outlines:
            contour = Dataset()
            contour.ContourImageSequence = DicomSequence([image_reference(sources[n])])
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(outline)
            points = place + outline[:, 1:] * along + outline[:, :1] * down
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            contours.append(contour)
    if contours:
        item.ContourSequence = DicomSequence(contours)
    return item


def outlines_of(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the closed outlines of a mask and of its holes.

    Args:
        mask: a slice's mask, `[rows, columns]` bool.

    Returns:
        One array `[points, 2]` (row, column) per outline, in pixels; the first point is not repeated at the end.
    """
    return [outline[:-1] - 1 for outline in find_contours(np.pad(mask, 1).astype(float), 0.5)]


def _has_holes(outlines: Sequence[np.ndarray]) -> bool:
    """Returns whether some outlines enclose holes. Their signed area has the opposite sign, because they run backwards."""
    areas = [np.sum(o[:, 0] * np.roll(o[:, 1], 1) - o[:, 1] * np.roll(o[:, 0], 1)) for o in outlines]
    return bool(min(areas) < 0 < max(areas))


def _observation(organ: Organ) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = organ.index
    item.RTROIIdentificationCodeSequence = DicomSequence([property_type(organ)])
    item.RTROIInterpretedType, item.ROIInterpreter = "ORGAN", ""
    return item


def _axes(source: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the position of a slice's first pixel, and the steps to the next column and the next row, `[3]` each, in mm."""
    turned = np.array([float(v) for v in source.ImageOrientationPatient])
    between_rows, between_columns = (float(v) for v in source.PixelSpacing)
    place = np.array([float(v) for v in source.ImagePositionPatient])
    return place, turned[:3] * between_columns, turned[3:] * between_rows


def _pixel_axes(part: Slice) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix `[3, 2]` from shifts in mm to shifts in (rows, columns), and the slices' normal `[3]`."""
    along, down = np.array(part.orientation[:3]) * part.spacing[1], np.array(part.orientation[3:]) * part.spacing[0]
    normal = np.cross(along, down)
    return np.stack([down / (down @ down), along / (along @ along)], 1), normal / np.linalg.norm(normal)
