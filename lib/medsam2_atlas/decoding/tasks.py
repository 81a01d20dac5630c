"""What reader processes can do: names that the server may send them, and the functions that they then import.

A function takes the arguments that were sent with the name, as JSON, and returns a dictionary that JSON can hold and a list
of arrays. An error of the project that it raises is raised where the task was asked for.
"""

from __future__ import annotations

PACKET_BYTES = 1 << 16
"""Max bytes of a request and of a reply; results travel as anonymous memory."""

READY = b"ready"
"""What a reader sends once it can take its first task."""

TASKS: dict[str, str] = {
    "alive": "medsam2_atlas.decoding.images:alive",
    "volume": "medsam2_atlas.decoding.images:volume",
    "labels": "medsam2_atlas.decoding.images:labels",
    "grid": "medsam2_atlas.decoding.images:grid",
    "label_check": "medsam2_atlas.decoding.images:label_check",
    "dicom_object": "medsam2_atlas.dicom.reading:describe_object",
    "dicom_series": "medsam2_atlas.dicom.reading:describe_series",
    "dicom_seg": "medsam2_atlas.dicom.reading:decode_seg",
}
