"""What clients may keep with images and label maps: anything but what the server records itself, and only so much of it.

The record of a version says who made it, when, of what, and what became of it. Those entries are the server's alone: a client
that could write them could sign in another's name.
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
            "author",
            "author_id",
            "confirm",
            "confirmed",
            "doubled",
            "expected_version",
            "file",
            "how",
        ),
        *("image", "image_sha256", "made", "model", "name", "number", "organs", "origin", "owner", "pacs", "problem"),
        *("provenance", "remarks", "removed", "replaced", "restored_from", "sha256", "tag", "user", "user_id", "version"),
    )
)
"""Entries of records that the server writes, here or in the answers about a record."""
_IMAGE_KEYS = SERVER_KEYS | {"strategy"}  # to whom a case was given
MAX_BYTES = 64 * 1024
"""Max size of what clients keep with one image or label map, as JSON."""
MAX_KEYS = 200


def without_server_keys(info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns what a client may keep with a new version, and the names of the entries that it may not.

    Clients that send back what they got for the version before must still be able to save.
    """
    refused = sorted(SERVER_KEYS & set(info))
    return {key: value for key, value in info.items() if key not in SERVER_KEYS}, refused


def check_label_info(info: Mapping[str, Any]) -> None:
    """Refuses a change of what the server records with a label map.

    Raises:
        InputError: an entry is the server's.
    """
    _refuse(sorted(SERVER_KEYS & set(info)))


def check_image_info(info: Mapping[str, Any]) -> None:
    """Refuses a change of what the server records with an image, including what a PACS told of it.

    Raises:
        InputError: an entry is the server's.
    """
    _refuse(sorted(key for key in info if key in _IMAGE_KEYS or tag_for_keyword(key) is not None))


def check_size(info: Mapping[str, Any]) -> None:
    """Refuses more than may be kept with one image or label map.

    Raises:
        InputError: it is too much.
    """
    own = {key: value for key, value in info.items() if key not in _IMAGE_KEYS}
    size = len(to_json(own).encode())
    if size > MAX_BYTES or len(own) > MAX_KEYS:
        raise InputError(
            "info",
            f"has {size} bytes in {len(own)} entries; {MAX_BYTES} bytes in {MAX_KEYS} entries can be kept.",
            "Send less; entries that are no longer used can be set to null.",
        )


def _refuse(keys: list[str]) -> None:
    if keys:
        raise InputError("info", f"has entries that only the server writes: {', '.join(keys)}.", "Leave them out.")
