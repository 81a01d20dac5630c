"""The lines of the table for segmentations of 3D Slicer, see `table.py`."""

from __future__ import annotations

from files.itk_files import written
from files.kind import LABELS, Kind
from files.slicer_files import segment, segmentation, terms

NAMES = segment("Liver", 1), segment("kidney_left", 2)
_TERMS = (
    segment("Segment_1", 1, tags=terms("10200004", "Liver")),
    segment("Segment_2", 2, tags=terms("64033007", "Kidney", "SCT^7771000^Left")),
)
_LAYERS = segment("Liver", 1, 0), segment("left kidney", 1, 1)
_STRANGE = segment("Liver", 1), segment("cyst", 2)

SEGMENTATIONS = (
    Kind("3D Slicer's segmentation (`.seg.nrrd`), by its segments' names", segmentation(*NAMES)),
    Kind("3D Slicer's segmentation, cropped", segmentation(*NAMES, crop=True)),
    Kind("3D Slicer's segmentation, named `.nrrd`", segmentation(*NAMES, name="labels.nrrd")),
    Kind("3D Slicer's segmentation with default names, by its codes", segmentation(*_TERMS)),
    Kind(
        "3D Slicer's segmentation, segments overlap",
        segmentation(*_LAYERS, overlap=True),
        remark="share 8 voxels, which are 'left kidney'",
    ),
    Kind(
        "3D Slicer's segmentation with names of other structures",
        segmentation(*_STRANGE),
        refused="has segments that are not organs",
    ),
    Kind("`.seg.nrrd` without names of its segments", written("labels.seg.nrrd", LABELS), refused="does not name its segments"),
)
