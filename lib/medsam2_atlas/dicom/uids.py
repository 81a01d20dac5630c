"""Checks UIDs from other systems where they enter, and derives names of folders from them."""

from __future__ import annotations

import hashlib
import re

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_LETTERS = 64
_NAME_DIGITS = 32


def valid_uid(text: object) -> bool:
    """Returns whether a text is a UID: digits and single dots, no empty part, 1 to 64 characters.

    A part may begin with a zero: the standard forbids it, but many devices write such UIDs, and they are harmless.
    """
    return isinstance(text, str) and len(text) <= _MAX_LETTERS and _UID.fullmatch(text) is not None


def cleaned_uid(value: object) -> str:
    """Returns a UID without the padding that DICOM puts at its end; empty if it is not valid."""
    text = str(value or "").rstrip("\0 ")
    return text if valid_uid(text) else ""


def uid_folder_name(uid: str) -> str:
    """Returns the name of the folder for a UID: a hash, so that no text from outside becomes a path."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_NAME_DIGITS]
