"""DICOM: label maps as segmentations (SEG) and RT structure sets, read back voxel-equal; UIDs, messages and servers.

The functions that write objects need highdicom, whose import takes seconds: they are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medsam2_atlas.dicom.origin import LabelOrigin, Made, seg_series_uid
from medsam2_atlas.dicom.seg_reading import read_seg
from medsam2_atlas.dicom.uids import uid_folder_name, valid_uid

if TYPE_CHECKING:
    from medsam2_atlas.dicom.rtstruct import read_rtstruct, write_rtstruct
    from medsam2_atlas.dicom.seg import write_seg

_LATER = {"read_rtstruct": "rtstruct", "write_rtstruct": "rtstruct", "write_seg": "seg"}

__all__ = [
    "LabelOrigin",
    "Made",
    "read_rtstruct",
    "read_seg",
    "seg_series_uid",
    "uid_folder_name",
    "valid_uid",
    "write_rtstruct",
    "write_seg",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"medsam2_atlas.dicom.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
