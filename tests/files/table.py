"""The kinds of files that this project reads and refuses, one line each: what it is, how it is written, what becomes of it.

To add one, write a function that makes such a file of the CT in `kind.py` (in a module here, by format), and add a line.
`test_kinds.py` runs every line through the library, the command line and, if it is one file, the server's upload.
`make inputs` writes the lines into docs/inputs.md, and a test checks that they are there.
"""

from __future__ import annotations

import numpy as np

from files.dicom_files import compressed, series
from files.itk_files import written
from files.kind import HU, INSIDE, LABELS, ROUND, Kind

NIFTI = (
    Kind("NIfTI, gzip (`.nii.gz`)", written("ct.nii.gz")),
    Kind("NIfTI (`.nii`)", written("ct.nii")),
    Kind("NIfTI, suffix in upper case (`.NII.GZ`)", written("CT.NII.GZ")),
    Kind("NIfTI, axes turned (RAS)", written("ct.nii.gz", turned="RAS")),
    Kind("NIfTI, sagittal slices", written("ct.nii.gz", turned="PIR")),
    Kind("NIfTI, 64-bit floating point", written("ct.nii.gz", HU.astype(np.float64))),
    Kind("NIfTI, 64-bit integers", written("ct.nii.gz", HU.astype(np.int64))),
)

NRRD_AND_MHA = (
    Kind("NRRD, packed", written("ct.nrrd", compress=True)),
    Kind("NRRD", written("ct.nrrd")),
    Kind("NRRD, suffix in upper case (`.NRRD`)", written("CT.NRRD")),
    Kind("MHA, packed", written("ct.mha", compress=True)),
    Kind("MHA, axes turned (RAS)", written("ct.mha", turned="RAS")),
)

DICOM = (
    Kind("DICOM series, a folder", series()),
    Kind("DICOM series, JPEG 2000", compressed("JPEG2000")),
    Kind("DICOM series, JPEG lossless", compressed("JPEG")),
)

VALUES = (
    Kind("no rescale intercept: HU + 1024", written("ct.nii.gz", HU + 1024), "its values are 1024 too high for HU"),
    Kind("air moved to 0: HU + 1000", written("ct.nii.gz", HU + 1000), "its values are 1000 too high for HU"),
    Kind("intercept subtracted twice: HU − 1024", written("ct.nii.gz", HU - 1024), "its values are 1024 too low for HU"),
    Kind("a window of HU as 0 to 255", written("ct.nii.gz", (HU.clip(-160, 240) + 160) // 2), "its values are no HU"),
    Kind("clipped to a soft-tissue window", written("ct.nii.gz", HU.clip(-160, 240)), "its values are clipped at -160"),
    Kind("padding below air, outside the field of view", written("ct.nii.gz", ROUND), holds=ROUND),
    Kind("a crop inside the body, without air", written("ct.nii.gz", INSIDE), holds=INSIDE),
    Kind("all voxels of one value", written("ct.nii.gz", HU * 0), "is empty: all voxels have one value"),
)

LABEL_MAPS = (
    Kind("label map on the CT's grid", written("labels.nii.gz", LABELS)),
    Kind("label map with axes turned (RAS)", written("labels.nrrd", LABELS, turned="RAS")),
    Kind("label map of floating-point numbers", written("labels.nii.gz", LABELS.astype(np.float32))),
)

SECTIONS = {
    "CT: NIfTI": NIFTI,
    "CT: NRRD and MHA": NRRD_AND_MHA,
    "CT: DICOM": DICOM,
    "Values": VALUES,
    "Label maps": LABEL_MAPS,
}
