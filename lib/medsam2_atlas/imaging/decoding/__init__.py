"""Decodes files from outside: checks their headers first, then decodes their voxels in separate processes.

The module `decoding.dicom` reads DICOM headers. It is not imported here, because it imports pydicom.
"""

from medsam2_atlas.imaging.decoding.check import (
    READABLE,
    check_extent,
    check_same_size,
    check_voxels,
    checked_header,
    image_io,
    is_segmentation,
    refuse_segmentation,
)
from medsam2_atlas.imaging.decoding.limits import DecodingLimits
from medsam2_atlas.imaging.decoding.packed import check_length
from medsam2_atlas.imaging.decoding.readers import alive, configure, run_task, shutdown, unreadable
from medsam2_atlas.imaging.decoding.segments import Segment, read_segments
from medsam2_atlas.imaging.decoding.tree import file_states
from medsam2_atlas.imaging.decoding.unreadable import UnreadableFileError

__all__ = [
    "READABLE",
    "DecodingLimits",
    "Segment",
    "UnreadableFileError",
    "alive",
    "check_extent",
    "check_length",
    "check_same_size",
    "check_voxels",
    "checked_header",
    "configure",
    "file_states",
    "image_io",
    "is_segmentation",
    "read_segments",
    "refuse_segmentation",
    "run_task",
    "shutdown",
    "unreadable",
]
