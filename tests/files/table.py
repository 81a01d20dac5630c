"""The kinds of files that this project reads and refuses, one line each: what it is, how it is written, what becomes of it.

To add one, write a function that makes such a file of the CT in `kind.py` (in a module here, by format), and add a line.
`test_kinds.py` runs every line through the library, the command line and, if it is one file, the server's upload.
`make inputs` writes the lines into docs/inputs.md, and a test checks that they are there.
"""

from __future__ import annotations

import numpy as np

from files.dicom_files import series
from files.itk_files import written
from files.kind import HU, LABELS, Kind
from files.slicer_files import segment, segmentation, terms

_NAMES = segment("Liver", 1), segment("kidney_left", 2)
_TERMS = (
    segment("Segment_1", 1, tags=terms("10200004", "Liver")),
    segment("Segment_2", 2, tags=terms("64033007", "Kidney", "SCT^7771000^Left")),
)
_LAYERS = segment("Liver", 1, 0), segment("left kidney", 1, 1)
_STRANGE = segment("Liver", 1), segment("cyst", 2)

NIFTI = (
    Kind("NIfTI, gzip (`.nii.gz`)", written("ct.nii.gz")),
    Kind("NIfTI (`.nii`)", written("ct.nii")),
    Kind("NIfTI, axes turned (RAS)", written("ct.nii.gz", turned="RAS")),
    Kind("NIfTI, sagittal slices", written("ct.nii.gz", turned="PIR")),
    Kind("NIfTI, 64-bit floating point", written("ct.nii.gz", HU.astype(np.float64))),
    Kind("NIfTI, 64-bit integers", written("ct.nii.gz", HU.astype(np.int64))),
)

NRRD_AND_MHA = (
    Kind("NRRD, packed", written("ct.nrrd", compress=True)),
    Kind("NRRD", written("ct.nrrd")),
    Kind("MHA, packed", written("ct.mha", compress=True)),
    Kind("MHA, axes turned (RAS)", written("ct.mha", turned="RAS")),
    Kind("3D Slicer's segmentation in place of the CT", segmentation(*_NAMES), refused="is a segmentation"),
)

DICOM = (Kind("DICOM series, a folder", series()),)

LABEL_MAPS = (
    Kind("label map on the CT's grid", written("labels.nii.gz", LABELS)),
    Kind("label map with axes turned (RAS)", written("labels.nrrd", LABELS, turned="RAS")),
    Kind("label map of floating-point numbers", written("labels.nii.gz", LABELS.astype(np.float32))),
    Kind("3D Slicer's segmentation (`.seg.nrrd`), by its segments' names", segmentation(*_NAMES)),
    Kind("3D Slicer's segmentation, cropped", segmentation(*_NAMES, crop=True)),
    Kind("3D Slicer's segmentation, named `.nrrd`", segmentation(*_NAMES, name="labels.nrrd")),
    Kind("3D Slicer's segmentation with default names, by its terms", segmentation(*_TERMS)),
    Kind(
        "3D Slicer's segmentation, segments overlap",
        segmentation(*_LAYERS, overlap=True),
        told="share 8 voxels, which are 'left kidney'",
    ),
    Kind("3D Slicer's segmentation with other names", segmentation(*_STRANGE), refused="has segments that are no organs"),
    Kind(
        "`.seg.nrrd` that does not name its segments", written("labels.seg.nrrd", LABELS), refused="does not name its segments"
    ),
)

SECTIONS = {"CT: NIfTI": NIFTI, "CT: NRRD and MHA": NRRD_AND_MHA, "CT: DICOM": DICOM, "Label maps": LABEL_MAPS}
