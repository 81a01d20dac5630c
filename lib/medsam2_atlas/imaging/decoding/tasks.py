"""The tasks of reader processes: the names that a process may send, and the functions that a reader imports for them.

A function gets the arguments that were sent with the name, as JSON. It returns a dictionary that is valid in JSON, and a list
of arrays. A `MedSAM2AtlasError` that it raises is raised again in the process that requested the task.
"""

from __future__ import annotations

PACKET_BYTES = 1 << 16
"""Max bytes of a request and of a reply; results are sent as anonymous memory."""

PRELOADED = ("medsam2_atlas.imaging.image_reading", "medsam2_atlas.dicom.series.pixels")
"""The modules that a reader imports before its first task."""

READY = b"ready"
"""The message that a reader sends once it is ready for its first task."""

TASKS: dict[str, str] = {
    "alive": "medsam2_atlas.imaging.decoding.worker:alive",
    "volume": "medsam2_atlas.imaging.image_reading:volume",
    "labels": "medsam2_atlas.imaging.image_reading:labels",
    "middle_slice": "medsam2_atlas.imaging.slice_reading:middle_slice",
    "grid": "medsam2_atlas.imaging.image_reading:grid",
    "fingerprint": "medsam2_atlas.imaging.image_reading:fingerprint",
    "label_check": "medsam2_atlas.imaging.image_reading:label_check",
    "dicom_object": "medsam2_atlas.dicom.reading:describe_object",
    "dicom_series": "medsam2_atlas.dicom.reading:describe_series",
    "middle_frame": "medsam2_atlas.dicom.reading:middle_frame",
    "slice_files": "medsam2_atlas.dicom.reading:slice_files",
    "dicom_seg": "medsam2_atlas.dicom.reading:decode_seg",
    "grid_seg": "medsam2_atlas.dicom.reading:decode_grid_seg",
    "series_folders": "medsam2_atlas.dicom.reading:split_series",
    "unzip": "medsam2_atlas.imaging.decoding.zipped:unzip",
    "stored_volume": "medsam2_atlas.dicom.instances.values:stored_volume",
}
