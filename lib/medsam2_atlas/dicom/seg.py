"""Writes DICOM segmentations with highdicom.

All organs of the table are segments, even if a label map does not contain them. A segment's number is the organ's number, and
its code identifies the organ too. So the only organ in a label map is not confused with the first organ of the table.

All versions of a label map belong to one SEG series. A new version is a new instance with a higher instance number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from medsam2_atlas.base.version import package_version
from medsam2_atlas.dicom.codes import anatomy, laterality, property_type
from medsam2_atlas.dicom.origin import LabelOrigin, derived_uid, person, seg_series_uid
from medsam2_atlas.dicom.references import refer_to_frames
from medsam2_atlas.dicom.series_labels import on_series
from medsam2_atlas.dicom.texts import code_string, line
from medsam2_atlas.imaging.labels import OrganTable, organ_table

_SERIES_NUMBER = 900


def write_seg(
    labels: sitk.Image, series: Path | Sequence[Dataset], origin: LabelOrigin, table: OrganTable | None = None
) -> Dataset:
    """Returns a label map as a SEG that refers to a series.

    Args:
        labels: the label map on the series' own grid, as `read_volume(folder)` returns it; may be empty.
        series: the folder of the series, or its headers from `source_headers`.
        origin: the origin of the label map, which the SEG records.
        table: the organs; those of `configs/labels.yaml` by default.

    Raises:
        InputError: the series is not a volume, or the label map does not fit it.
    """
    table = table or organ_table()
    sources, masks = on_series(labels, series, table)
    shown = [n for n in range(len(sources)) if masks[n].any()] or [0]
    seg = Segmentation(
        source_images=[sources[n] for n in shown],
        pixel_array=masks[shown],  # highdicom requires segment numbers without gaps, which the organ table has
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(k, table, origin) for k in range(1, max(table.indices) + 1)],
        series_instance_uid=seg_series_uid(sources[0].SeriesInstanceUID, origin.tag),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=_instance_uid(masks, sources, origin),
        instance_number=origin.version,
        manufacturer="medsam2_atlas",
        manufacturer_model_name="medsam2_atlas",
        software_versions=package_version(),
        device_serial_number="0",
        content_label=code_string(origin.tag),
        content_description=line(f"{origin.tag[:40]}, version {origin.version}"),
        content_creator_name=person(origin.author),
        series_description=line(f"{origin.tag[:40]} (medsam2_atlas)"),
    )
    refer_to_frames(seg, sources)
    seg.SpecificCharacterSet = "ISO_IR 192"
    seg.preamble = b"\0" * 128
    return seg


def _describe(k: int, table: OrganTable, origin: LabelOrigin) -> SegmentDescription:
    organ = table[k]
    algorithm = None
    if origin.made != "MANUAL":
        algorithm = hd.AlgorithmIdentificationSequence(
            name=line(origin.model) or "medsam2_atlas",
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=package_version(),
        )
    description = SegmentDescription(
        segment_number=k,
        segment_label=organ.display,
        segmented_property_category=anatomy(),
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


def _instance_uid(masks: np.ndarray, sources: Sequence[Dataset], origin: LabelOrigin) -> str:
    """Returns a UID derived from the label map, so that a PACS stores a label map only once even if it is sent twice."""
    digest = hashlib.sha256(np.ascontiguousarray(masks).data)
    digest.update(repr((sources[0].SeriesInstanceUID, [str(ds.SOPInstanceUID) for ds in sources], origin)).encode())
    return derived_uid(f"instance/{digest.hexdigest()}")


def _cielab(colour: Sequence[int]) -> list[int]:
    """Converts red, green, blue (0..255, sRGB) to DICOM's CIELab values (PS3.3, C.10.7.1.1)."""
    from skimage.color import rgb2lab

    lightness, a, b = rgb2lab(np.array(colour, float).reshape(1, 1, 3) / 255).ravel()
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]
