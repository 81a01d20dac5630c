"""Label maps as DICOM objects: segmentations (SEG), read back voxel-equal."""

from medsam2_atlas.dicom.seg import SegInfo, read_seg, seg_series_uid, write_seg

__all__ = ["SegInfo", "read_seg", "seg_series_uid", "write_seg"]
