"""CTs of a studies folder as DICOM instances: UIDs, headers, stored values, and answers in the formats of DICOMweb.

Nothing is written to disk. Instance n of a series is the n-th axial slice of the CT's volume in LPS orientation, counted from
1 in the direction of the feet to the head; an oblique volume keeps its own axes. This grid is right-handed for every
orientation of a file, so that viewers, which sort slices by their position along the normal, build exactly the project's
`Volume`.
"""

from medsam2_atlas.dicom.instances.media import Part, accepts, multipart
from medsam2_atlas.dicom.instances.opened import OpenSeries, decode_ct, grid_seg_to_file
from medsam2_atlas.dicom.instances.pictures import slice_picture
from medsam2_atlas.dicom.instances.query import Query, parse_query
from medsam2_atlas.dicom.instances.series import InstanceSeries, StudyAbout
from medsam2_atlas.dicom.instances.uids import FolderUids

__all__ = [
    "FolderUids",
    "InstanceSeries",
    "OpenSeries",
    "Part",
    "Query",
    "StudyAbout",
    "accepts",
    "decode_ct",
    "grid_seg_to_file",
    "multipart",
    "parse_query",
    "slice_picture",
]
