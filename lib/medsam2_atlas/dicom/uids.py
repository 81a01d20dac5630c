"""Checks UIDs from other systems, and derives folder names from them."""

from __future__ import annotations

import hashlib
import re

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_LETTERS = 64
_NAME_DIGITS = 32


def valid_uid(text: object) -> bool:
    """Returns whether a text is a UID: 1 to 64 characters, digits and single dots, no empty part.

    A part may begin with a zero. The standard forbids it, but many devices write such UIDs, and they do no harm.
    """
    return isinstance(text, str) and len(text) <= _MAX_LETTERS and _UID.fullmatch(text) is not None


def cleaned_uid(value: object) -> str:
    """Returns a UID without DICOM's padding at its end; empty if the UID is not valid."""
    text = str(value or "").rstrip("\0 ")
    return text if valid_uid(text) else ""


def uid_folder_name(uid: str) -> str:
    """Returns the folder name for a UID: a hash, so that no text from other systems becomes a path."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_NAME_DIGITS]
