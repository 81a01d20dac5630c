"""Label maps as DICOM objects: segmentations (SEG) and RT structure sets, read back voxel-equal."""

from medsam2_atlas.dicom.origin import LabelOrigin, Made
from medsam2_atlas.dicom.rtstruct import read_rtstruct, write_rtstruct
from medsam2_atlas.dicom.seg import read_seg, seg_series_uid, write_seg

__all__ = ["LabelOrigin", "Made", "read_rtstruct", "read_seg", "seg_series_uid", "write_rtstruct", "write_seg"]
