"""Lists the kinds of files that this project reads or refuses, one line each: its name, its writer and the expected result.

To add a kind, write a function that writes such a file of the CT in `kind.py` (in the module for its format), and add a line.
`test_kinds.py` runs every line through the library, the command line and, if it is one file, the server's upload.
`make inputs` writes the lines into docs/inputs.md, and a test checks that the page is up to date.
"""

from __future__ import annotations

import numpy as np
from nibabel import Nifti2Header

from files import dicom_files as dicom
from files.dicom_files import enhanced, placed, series
from files.itk_files import written
from files.kind import HU, INSIDE, LABELS, ROUND, Kind
from files.nifti_files import MATRIX, nifti, packed_twice, scaled, shifted, skewed, srow
from files.slicer_files import segmentation
from files.slicer_kinds import NAMES, SEGMENTATIONS
from files.text_files import IN_SPACE, mha, named, nrrd, slanted

COLOURS = np.zeros(HU.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
METRES = (IN_SPACE[0], "space directions: (0.002,0,0) (0,0.0025,0) (0,0,0.005)", "space origin: (-0.03,-0.05,0.1)")
TURNED_ROUND = ("ElementSpacing = -2 2.5 5", "Offset = 32 -50 100")
LAYERS = (IN_SPACE[0], "space directions: none (2,0,0) (0,2.5,0) (0,0,5)", IN_SPACE[2], "kinds: list domain domain domain")
LEFT_HANDED = shifted(55) @ np.diag([1.0, 1, -1, 1])

NIFTI = (
    Kind("NIfTI, gzip (`.nii.gz`)", written("ct.nii.gz")),
    Kind("NIfTI (`.nii`)", written("ct.nii")),
    Kind("NIfTI, suffix in upper case (`.NII.GZ`)", written("CT.NII.GZ")),
    Kind("NIfTI, axes turned (RAS)", written("ct.nii.gz", turned="RAS")),
    Kind("NIfTI, sagittal slices", written("ct.nii.gz", turned="PIR")),
    Kind("NIfTI, 64-bit floating point", written("ct.nii.gz", HU.astype(np.float64))),
    Kind("NIfTI, 64-bit integers", written("ct.nii.gz", HU.astype(np.int64))),
    Kind("NIfTI-2", nifti("ct.nii.gz", kind=Nifti2Header)),
    Kind("NIfTI, big-endian", nifti("ct.nii", endianness=">")),
    Kind("NIfTI, packed by gzip but named `.nii`", nifti("ct.nii", packed=True), remark="though its name ends in .nii"),
    Kind("NIfTI, not packed but named `.nii.gz`", nifti("ct.nii.gz", packed=False), remark="though its name ends in .gz"),
    Kind("NIfTI, packed by gzip twice", packed_twice, "is packed by gzip twice"),
    Kind("an NRRD file named `.nii`", named(nrrd("ct.nrrd"), "ct.nii"), "it is an NRRD file, not a NIfTI file"),
    Kind("NIfTI, only a qform", nifti("ct.nii.gz", codes=(1, 0))),
    Kind("NIfTI, left-handed axes", nifti("ct.nii.gz", HU[::-1], LEFT_HANDED)),
    Kind(
        "NIfTI, sform skewed by 0.02° (rounded)",
        nifti("ct.nii.gz", matrix=skewed(0.02)),
        remark="0.02° from right angles",
        tolerance=0.05,
    ),
    Kind("NIfTI, sform skewed by 2° (sheared)", nifti("ct.nii.gz", matrix=skewed(2)), "they deviate by 2°, more than 0.5°"),
    Kind("NIfTI, sform with NaN", nifti("ct.nii.gz", **srow(MATRIX[:3] * np.nan)), "has an axis without length, or NaN"),
    Kind(
        "NIfTI, sform 10 mm from the qform",
        nifti("ct.nii.gz", codes=(1, 1), qform=shifted(10)),
        remark="voxels; the sform is used",
    ),
    Kind(
        "NIfTI, spacing only in the sform", nifti("ct.nii.gz", pixdim=[1] + [0] * 7), remark="the spacing of its sform is used"
    ),
    Kind(
        "NIfTI, negative `pixdim`",
        nifti("ct.nii.gz", pixdim=[1, -2, 2.5, 5, 1, 1, 1, 1]),
        remark="the sign has no meaning in NIfTI",
    ),
    Kind(
        "NIfTI in metres",
        nifti("ct.nii.gz", matrix=scaled(1e-3), xyzt_units=1),
        remark="gives lengths in metres; they were converted",
    ),
    Kind(
        "NIfTI in µm", nifti("ct.nii.gz", matrix=scaled(1e3), xyzt_units=3), remark="gives lengths in µm; they were converted"
    ),
    Kind(
        "NIfTI in metres, declared as mm",
        nifti("ct.nii.gz", matrix=scaled(1e-3), xyzt_units=2),
        remark="is in metres; it was converted",
    ),
    Kind("NIfTI in µm, declared as mm", nifti("ct.nii.gz", matrix=scaled(1e3), xyzt_units=2), "Is it in µm?"),
    Kind("NIfTI with slope and intercept", nifti("ct.nii.gz", (HU + 1024).astype(np.uint16), scl_inter=-1024)),
    Kind("NIfTI with a slope of NaN", nifti("ct.nii.gz", scl_slope=np.nan, scl_inter=np.nan)),
    Kind(
        "NIfTI with an intercept but slope 0", nifti("ct.nii.gz", scl_slope=0, scl_inter=-1024), remark="values are not scaled"
    ),
    Kind("NIfTI, four axes, one time point", nifti("ct.nii.gz", HU[None])),
    Kind("NIfTI, two time points", nifti("ct.nii.gz", np.stack([HU, HU])), "has 4 dimensions"),
    Kind("NIfTI, vectors", nifti("ct.nii.gz", np.stack([HU, HU, HU])[:, None]), "contains 3 values per voxel"),
    Kind("NIfTI, colours", nifti("ct.nii.gz", COLOURS), "contains colours (RGB)"),
    Kind("NIfTI, complex numbers", nifti("ct.nii.gz", HU.astype(np.complex64)), "contains complex numbers"),
    Kind("NIfTI, one bit per voxel", nifti("ct.nii.gz", datatype=1), "contains values of one bit"),
)

NRRD_AND_MHA = (
    Kind("NRRD, packed", written("ct.nrrd", compress=True)),
    Kind("NRRD", written("ct.nrrd")),
    Kind("NRRD, suffix in upper case (`.NRRD`)", written("CT.NRRD")),
    Kind("MHA, packed", written("ct.mha", compress=True)),
    Kind("MHA, axes turned (RAS)", written("ct.mha", turned="RAS")),
    Kind("NRRD, big-endian", nrrd("ct.nrrd", endian="big")),
    Kind("NRRD, bzip2", nrrd("ct.nrrd", encoding="bzip2"), "is packed by bzip2"),
    Kind("NRRD, numbers as text", nrrd("ct.nrrd", encoding="ascii")),
    Kind(
        "NRRD, a header without voxels (`data file:`)", nrrd("ct.nrrd", "data file: ct.raw"), "has its voxels in another file"
    ),
    Kind("NRRD in metres", nrrd("ct.nrrd", *METRES, 'space units: "m" "m" "m"'), remark="gives lengths in metres"),
    Kind("NRRD in metres, without a unit", nrrd("ct.nrrd", *METRES), remark="is in metres; it was converted"),
    Kind("NRRD, axes skewed by 0.1°", nrrd("ct.nrrd", *slanted(0.1)), remark="0.1° from right angles", tolerance=0.1),
    Kind("NRRD, axes skewed by 2°", nrrd("ct.nrrd", *slanted(2)), "they deviate by 2°, more than 0.5°"),
    Kind(
        "NRRD, an axis without length",
        nrrd("ct.nrrd", *IN_SPACE[::2], "space directions: (0,0,0) (0,2.5,0) (0,0,5)"),
        "axis without length",
    ),
    Kind("NRRD, one time point", nrrd("ct.nrrd", IN_SPACE[0], IN_SPACE[1] + " none", IN_SPACE[2], sizes="32 24 12 1")),
    Kind(
        "NRRD, several values per voxel",
        nrrd("ct.nrrd", "kinds: vector domain domain domain", sizes="2 16 24 12"),
        "contains 2 values per voxel",
    ),
    Kind(
        "NRRD, colours", nrrd("ct.nrrd", "kinds: RGB-color domain domain domain", sizes="3 32 24 4"), "contains colours (RGB)"
    ),
    Kind(
        "MHA, negative `ElementSpacing`",
        mha("ct.mha", *TURNED_ROUND, array=HU[..., ::-1].copy()),
        remark="the direction of that axis was reversed",
    ),
    Kind(
        "MHA in cm",
        mha("ct.mha", "ElementSpacing = .2 .25 .5", "Offset = -3 -5 10", "DistanceUnits = cm"),
        remark="lengths in cm",
    ),
    Kind("MHA in µm, without a unit", mha("ct.mha", "ElementSpacing = 2000 2500 5000"), "Is it in µm?"),
    Kind("MHA, axes skewed by 6°", mha("ct.mha", "TransformMatrix = 1 0 0 0.1 1 0 0 0 1"), "not at right angles"),
    Kind(
        "MHA, colours",
        mha("ct.mha", "ElementNumberOfChannels = 3", array=HU.astype(np.uint8), sizes="32 24 4"),
        "contains colours (RGB)",
    ),
    Kind("3D Slicer's segmentation instead of the CT", segmentation(*NAMES), refused="is a segmentation"),
)

DICOM = (
    Kind("DICOM series, a folder", series()),
    Kind("DICOM series in nested folders", dicom.nested),
    Kind("DICOM medium: a folder with a `DICOMDIR`", dicom.with_index),
    Kind("DICOM files without preamble", dicom.without_preamble),
    Kind("compressed DICOM files (RLE)", series(dicom.run_length_encoded)),
    Kind("rescale intercept and type of pixels differ by slice", series(dicom.own_rule)),
    Kind("Enhanced CT, one multi-frame file, frames out of order", enhanced()),
    Kind("Enhanced CT in three files (a concatenation)", enhanced(files=3)),
    Kind("Enhanced CT, each frame with its own rescale intercept", enhanced(dicom.own_rule_per_frame)),
    Kind(
        "slices 5 mm apart, positions jittered by 0.05 mm",
        placed(lambda n: f"{100 + 5 * n + 0.05 * (-1) ** n:.2f}"),
        remark="even steps",
        tolerance=0.06,
    ),
    Kind(
        "image orientation rounded, 0.06° from right angles",
        series(dicom.slightly_skewed),
        remark="straightened",
        tolerance=0.1,
    ),
    Kind("a slice is missing", dicom.without_slice, "some are missing or duplicated"),
    Kind("two series in a folder", dicom.twice, "contains slices of 2 series"),
    Kind("Enhanced CT with two temporal positions", enhanced(dicom.phases), "contains 2 temporal positions"),
    Kind("tilted gantry", series(dicom.tilted), "tilted gantry"),
    Kind("image orientation 2.9° from right angles", series(dicom.skewed), "not at right angles"),
    Kind("rescale slope of 0", series(dicom.without_slope), "rescale slope of 0"),
    Kind("pixel spacing in µm", series(dicom.in_micrometres), "Is it in µm?"),
    Kind("DICOM series, JPEG 2000", dicom.compressed("JPEG2000")),
    Kind("DICOM series, JPEG lossless", dicom.compressed("JPEG")),
)

VALUES = (
    Kind("no rescale intercept: HU + 1024", written("ct.nii.gz", HU + 1024), "its values are 1024 too high for HU"),
    Kind("air at 0: HU + 1000", written("ct.nii.gz", HU + 1000), "its values are 1000 too high for HU"),
    Kind("intercept subtracted twice: HU − 1024", written("ct.nii.gz", HU - 1024), "its values are 1024 too low for HU"),
    Kind("a window of HU as 0 to 255", written("ct.nii.gz", (HU.clip(-160, 240) + 160) // 2), "its values are not HU"),
    Kind("clipped to a soft-tissue window", written("ct.nii.gz", HU.clip(-160, 240)), "its values are clipped at -160"),
    Kind("padding below air, outside the field of view", written("ct.nii.gz", ROUND), voxels=ROUND),
    Kind("a crop inside the body, without air", written("ct.nii.gz", INSIDE), voxels=INSIDE),
    Kind("all voxels of one value", written("ct.nii.gz", HU * 0), "is empty: all voxels have one value"),
)

LABEL_MAPS = (
    Kind("label map on the CT's grid", written("labels.nii.gz", LABELS)),
    Kind("label map with axes turned (RAS)", written("labels.nrrd", LABELS, turned="RAS")),
    Kind("label map of floating-point numbers", written("labels.nii.gz", LABELS.astype(np.float32))),
    Kind(
        "label map of numbers such as 5.9999999",
        written("labels.nrrd", LABELS - 1e-7),
        remark="from whole numbers; they were rounded",
    ),
    Kind("label map of numbers such as 5.5", written("labels.nrrd", LABELS - 0.5), "its values are not whole numbers"),
    Kind(
        "label map with rounded spacing",
        nifti("labels.nii.gz", LABELS, scaled(1.001)),
        remark="it was replaced by the image's grid",
    ),
    Kind("label map with only a qform", nifti("labels.nii.gz", LABELS, codes=(1, 0))),
    Kind("label map, packed but named `.nii`", nifti("labels.nii", LABELS, packed=True), remark="though its name ends in .nii"),
    Kind(
        "label map that is a crop",
        nifti("labels.nii.gz", LABELS[1:], shifted(5)),
        "voxels instead of 32 x 24 x 12; first voxel 5 mm away",
    ),
    Kind(
        "label map of other spacing",
        nifti("labels.nii.gz", LABELS, scaled(1.1)),
        "spacing (2.2, 2.75, 5.5) instead of (2, 2.5, 5) mm",
    ),
    Kind(
        "label map one slice higher",
        nifti("labels.nii.gz", LABELS, shifted(5)),
        "first voxel 5 mm away, at voxel (0, 0, 1) of the image",
    ),
    Kind(
        "label map in two layers",
        nrrd("labels.nrrd", *LAYERS, array=np.stack([LABELS, LABELS], -1)),
        "contains 2 values per voxel, such as layers",
    ),
    *SEGMENTATIONS,
)

SECTIONS = {
    "CT: NIfTI": NIFTI,
    "CT: NRRD and MHA": NRRD_AND_MHA,
    "CT: DICOM": DICOM,
    "Values": VALUES,
    "Label maps": LABEL_MAPS,
}
