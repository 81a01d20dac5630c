"""DICOM segmentations, by highdicom.

All organs of the table are segments, whether a label map holds them or not: a segment's number is the organ's number, and
its code says the same once more. So a label map that holds one organ only is not taken for the first one of a list.

A label map has one SEG series for good; a new version is a new instance in it, with a higher instance number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid

from medsam2_atlas.dicom.codes import ANATOMY, code_of, laterality, property_type
from medsam2_atlas.dicom.origin import LabelOrigin, derived_uid, on_series, person
from medsam2_atlas.errors import InputError
from medsam2_atlas.labels import OrganTable, organ_table
from medsam2_atlas.segmentation import package_version
from medsam2_atlas.series import series_slices

_SERIES_NUMBER = 900
_PLACE_MM = 0.01


def seg_series_uid(image_series: str, tag: str) -> str:
    """The series of all versions of a label: the same for the same image and tag, on any machine."""
    return derived_uid(f"{image_series}/{tag}")


def write_seg(labels: sitk.Image, folder: Path, origin: LabelOrigin, table: OrganTable | None = None) -> Dataset:
    """A label map as a SEG of the series in a folder.

    Args:
        labels: on the series' own grid, as `read_volume(folder)` gives it; may be empty.
        folder: with the series' files.
        origin: what it says of its origin.
        table: the organs; those of `configs/labels.yaml` by default.

    Raises:
        InputError: the series makes no volume, or the label map does not lie on it.
    """
    table = table or organ_table()
    slices = series_slices(folder)
    sources = [pydicom.dcmread(part.file, stop_before_pixels=True) for part in slices]
    masks = on_series(labels, sources, table)
    shown = [n for n in range(len(slices)) if masks[n].any()] or [0]
    seg = Segmentation(
        source_images=[sources[n] for n in shown],
        pixel_array=masks[shown],  # highdicom's label maps count segments without gaps; so does ours
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(k, table, origin) for k in range(1, max(table.indices) + 1)],
        series_instance_uid=seg_series_uid(sources[0].SeriesInstanceUID, origin.tag),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=origin.version,
        manufacturer="medsam2_atlas",
        manufacturer_model_name="medsam2_atlas",
        software_versions=package_version(),
        device_serial_number="0",
        content_label=_content_label(origin.tag),
        content_description=f"{origin.tag}, version {origin.version}"[:64],
        content_creator_name=person(origin.author),
        series_description=f"{origin.tag} (medsam2_atlas)"[:64],
    )
    seg.preamble = b"\0" * 128
    return seg


def read_seg(seg: Dataset, folder: Path, table: OrganTable | None = None) -> np.ndarray:
    """The label map of a SEG on the grid of the series in a folder, `[slices, rows, columns]` in the series' order.

    Segments are told by their labels, else by their codes; where organs overlap, the one with the higher number wins.
    Segments that are no organs may be there, as viewers list some, but must be empty.

    Raises:
        InputError: no SEG, not of this series, or something in a segment that is no organ of the table.
    """
    table = table or organ_table()
    if seg.get("Modality") != "SEG":
        raise InputError("file", "is no DICOM segmentation.", "Send one of the modality SEG.")
    slices = series_slices(folder)
    first = pydicom.dcmread(slices[0].file, stop_before_pixels=True, specific_tags=["Rows", "Columns", "SeriesInstanceUID"])
    if (seg.Rows, seg.Columns) != (first.Rows, first.Columns):
        raise InputError("segmentation", "has other rows or columns than the series.", "Segment the series itself.")
    organs = {int(item.SegmentNumber): _organ_of(item, table) for item in seg.SegmentSequence}
    by_uid = {part.uid: n for n, part in enumerate(slices)}
    places = np.array([part.position for part in slices])
    labels = np.zeros((len(slices), first.Rows, first.Columns), np.uint8)
    pixels = np.atleast_3d(seg.pixel_array)
    pixels = pixels[None] if seg.pixel_array.ndim == 2 else seg.pixel_array
    for mask, groups in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if not mask.any():
            continue
        organ = organs[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        if not organ:
            raise InputError("segmentation", "holds a segment that is no organ of the table.", _known(seg, organs, table))
        plane = labels[_slice_of(groups, by_uid, places)]
        plane[(mask > 0) & (plane < organ)] = organ
    return labels


def _describe(k: int, table: OrganTable, origin: LabelOrigin) -> SegmentDescription:
    organ = table[k]
    algorithm = None
    if origin.made != "MANUAL":
        algorithm = hd.AlgorithmIdentificationSequence(
            name=origin.model or "medsam2_atlas",
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=package_version(),
        )
    description = SegmentDescription(
        segment_number=k,
        segment_label=organ.display,
        segmented_property_category=ANATOMY,
        segmented_property_type=property_type(organ),
        algorithm_type=SegmentAlgorithmTypeValues(origin.made),
        algorithm_identification=algorithm,
        tracking_uid=derived_uid(f"{origin.tag}/{organ.name}"),
        tracking_id=organ.name,
    )
    side = laterality(organ)
    if side is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = DicomSequence([side])
    description.RecommendedDisplayCIELabValue = _cielab(organ.colour)
    return description


def _known(seg: Dataset, organs: dict[int, int], table: OrganTable) -> str:
    strange = [str(item.get("SegmentLabel")) for item in seg.SegmentSequence if not organs[int(item.SegmentNumber)]]
    return f"Empty or rename {', '.join(strange)}; organs are {', '.join(organ.display for organ in table.organs)}."


def _organ_of(item: Dataset, table: OrganTable) -> int:
    """The organ that a segment shows; 0 for none of the table."""
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = {m.CodeValue for m in kind.get("SegmentedPropertyTypeModifierCodeSequence", ())}
    label = str(item.get("SegmentLabel", "")).strip().lower().replace(" ", "_")
    for organ in table.organs:
        if label in (organ.name, organ.display.lower().replace(" ", "_")) or item.get("TrackingID") == organ.name:
            return organ.index
    for organ in table.organs:
        side = laterality(organ)
        if code_of(kind) == organ.code and (side is None or side.value in modifiers):
            return organ.index
    return 0


def _slice_of(groups: Dataset, by_uid: dict[str, int], places: np.ndarray) -> int:
    """The slice that a frame lies on: by what it refers to, else by its place."""
    for derivation in groups.get("DerivationImageSequence", ()):
        for source in derivation.get("SourceImageSequence", ()):
            if source.ReferencedSOPInstanceUID in by_uid:
                return by_uid[source.ReferencedSOPInstanceUID]
    if "PlanePositionSequence" in groups:
        place = np.array([float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient])
        away = np.linalg.norm(places - place, axis=1)
        if away.min() < max(_PLACE_MM, 0.1 * float(np.linalg.norm(places[1] - places[0]))):
            return int(away.argmin())
    raise InputError("segmentation", "has a frame that lies on no slice of the series.", "Segment the series itself.")


def _content_label(tag: str) -> str:
    """A code string: upper case, 16 letters at most."""
    text = "".join(c if c.isalnum() else "_" for c in tag.upper())[:16]
    return text or "LABEL"


def _cielab(colour: Sequence[int]) -> list[int]:
    """Red, green, blue (0..255, sRGB) as DICOM's CIELab values (PS3.3, C.10.7.1.1)."""
    from skimage.color import rgb2lab

    lightness, a, b = rgb2lab(np.array(colour, float).reshape(1, 1, 3) / 255).ravel()
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]
