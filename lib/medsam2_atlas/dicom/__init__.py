"""DICOM: label maps as segmentations (SEG) and RT structure sets, CT series, UIDs, and a DICOMweb client.

A label map that is written and read back has the same voxels. The functions that read and write objects are imported at first
use, because they need pydicom and highdicom, whose imports take seconds.
"""

import logging
import warnings
from typing import TYPE_CHECKING

from medsam2_atlas.base.choices import Made
from medsam2_atlas.base.lazy import lazy_exports
from medsam2_atlas.dicom.origin import LabelOrigin, seg_series_uid
from medsam2_atlas.dicom.uids import uid_folder_name, valid_uid

if TYPE_CHECKING:
    from medsam2_atlas.dicom.rtstruct import read_rtstruct, write_rtstruct
    from medsam2_atlas.dicom.seg import write_seg
    from medsam2_atlas.dicom.seg_reading import read_seg
    from medsam2_atlas.dicom.series_labels import labels_of_series, seg_to_file

for _library in ("pydicom", "highdicom"):
    # Their warnings quote values of DICOM objects, such as the patient's name, and would reach terminals and logs.
    warnings.filterwarnings("ignore", module=rf"{_library}(\.|$)")
    logging.getLogger(_library).setLevel(logging.ERROR)

__getattr__ = lazy_exports(
    __name__,
    {
        "labels_of_series": "series_labels",
        "read_rtstruct": "rtstruct",
        "read_seg": "seg_reading",
        "seg_to_file": "series_labels",
        "write_rtstruct": "rtstruct",
        "write_seg": "seg",
    },
)

__all__ = [
    "LabelOrigin",
    "Made",
    "labels_of_series",
    "read_rtstruct",
    "read_seg",
    "seg_series_uid",
    "seg_to_file",
    "uid_folder_name",
    "valid_uid",
    "write_rtstruct",
    "write_seg",
]
