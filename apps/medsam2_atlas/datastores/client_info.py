"""Checks the information that clients store with images and label maps: no entries of the server, and not too much.

The record of a version contains its author, time, origin and later changes. Only the server writes these entries: a client that
could write them could sign off a label map in another person's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.datadict import tag_for_keyword

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.json_text import to_json

SERVER_KEYS = frozenset(
    (
        *(
            "accepted",
            "accepted_by",
            "assigned",
            "author",
            "author_id",
            "confirm",
            "confirmed",
            "doubled",
            "expected_version",
            "file",
            "how",
        ),
        *("base", "returned", "returns", "work"),
        *("image", "image_sha256", "made", "model", "name", "number", "organs", "origin", "owner", "pacs", "problem"),
        *("provenance", "remarks", "removed", "replaced", "restored_from", "sha256", "tag", "user", "user_id", "version"),
    )
)
"""Entries that the server writes, in stored records or in its replies about them."""
_IMAGE_KEYS = SERVER_KEYS | {"strategy"}  # `strategy` records the assignments of a case to clients
MAX_BYTES = 64 * 1024
"""Max size in bytes of the JSON that clients store with one image or label map."""
MAX_KEYS = 200
"""Max number of entries that clients store with one image or label map."""


def without_server_keys(info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the entries that a client may store with a new version, and the names of the entries that are removed.

    The server's entries are removed and not refused, because clients may send back the record of the previous version.

    Example:
        >>> without_server_keys({"comment": "motion artefacts", "author": "kim"})
        ({'comment': 'motion artefacts'}, ['author'])
    """
    refused = sorted(SERVER_KEYS & set(info))
    return {key: value for key, value in info.items() if key not in SERVER_KEYS}, refused


def check_label_info(info: Mapping[str, Any]) -> None:
    """Refuses a change of the server's entries in the record of a label map.

    Raises:
        InputError: `info` has an entry that only the server writes.
    """
    _refuse(sorted(SERVER_KEYS & set(info)))


def check_image_info(info: Mapping[str, Any]) -> None:
    """Refuses a change of the server's entries in the record of an image, including its DICOM attributes from a PACS.

    Raises:
        InputError: `info` has an entry that only the server writes.
    """
    _refuse(sorted(key for key in info if key in _IMAGE_KEYS or tag_for_keyword(key) is not None))


def check_size(info: Mapping[str, Any]) -> None:
    """Refuses more information than may be stored with one image or label map.

    Raises:
        InputError: the clients' entries exceed `MAX_BYTES` or `MAX_KEYS`.
    """
    own = {key: value for key, value in info.items() if key not in _IMAGE_KEYS}
    size = len(to_json(own).encode())
    if size > MAX_BYTES or len(own) > MAX_KEYS:
        raise InputError(
            "info",
            f"has {size} bytes in {len(own)} entries; max {MAX_BYTES} bytes in {MAX_KEYS} entries can be stored.",
            "Send less; set entries that are no longer used to null.",
        )


def _refuse(keys: list[str]) -> None:
    if keys:
        raise InputError("info", f"has entries that only the server writes: {', '.join(keys)}.", "Omit them.")
