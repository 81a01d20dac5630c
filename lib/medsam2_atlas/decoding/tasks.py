"""What reader processes can do: names that the server may send them, and the functions that they then import.

A function takes the arguments that were sent with the name, as JSON, and returns a dictionary that JSON can hold and a list
of arrays. An error of the project that it raises is raised where the task was asked for.
"""

from __future__ import annotations

PACKET_BYTES = 1 << 16
"""Max bytes of a request and of a reply; results travel as anonymous memory."""

PRELOADED = "medsam2_atlas.image_reading"
"""What a reader imports before its first task."""

READY = b"ready"
"""What a reader sends once it can take its first task."""

TASKS: dict[str, str] = {
    "alive": "medsam2_atlas.decoding.worker:alive",
    "volume": "medsam2_atlas.image_reading:volume",
    "labels": "medsam2_atlas.image_reading:labels",
    "grid": "medsam2_atlas.image_reading:grid",
    "label_check": "medsam2_atlas.image_reading:label_check",
    "dicom_object": "medsam2_atlas.dicom.reading:describe_object",
    "dicom_series": "medsam2_atlas.dicom.reading:describe_series",
    "dicom_seg": "medsam2_atlas.dicom.reading:decode_seg",
}
