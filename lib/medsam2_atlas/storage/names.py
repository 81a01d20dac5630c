"""Checks names of studies and label tags, which become file names."""

from __future__ import annotations

import re

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.storage.folder import encodable

LISTED = "`medsam2-atlas labels list` and /datastore list studies and label maps."
"""The remedy of an error about a study, a tag or a version that does not exist."""

_MAX_BYTES = 180  # file systems allow 255; suffixes and temporary names need the rest
_STUDY = re.compile(r"[^\x00-\x1f\x7f/\\]+")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def study_name(text: str) -> str:
    """Returns the text unchanged if it is a valid study name: one file name without folders, in any script.

    Raises:
        InputError: the text is empty or too long, begins with a dot, begins or ends with a blank, or contains slashes or
            control characters.

    >>> study_name("Müller 3")
    'Müller 3'
    """
    good = bool(_STUDY.fullmatch(text)) and not text.startswith(".") and text == text.strip()
    if not good or not encodable(text) or len(text.encode()) > _MAX_BYTES:
        raise InputError(
            repr(text[:80]),
            "cannot name a study.",
            f"Use 1 to {_MAX_BYTES} bytes without slashes, control characters, a dot at the start, or blanks at the ends.",
        )
    return text


def tag_name(text: str) -> str:
    """Returns the text unchanged if it is a valid label tag: 1 to 64 of A-Z, a-z, 0-9, `_`, `-` and `.`.

    Raises:
        InputError: the text has another length or other characters, or does not begin with a letter or digit.
    """
    if not _TAG.fullmatch(text):
        raise InputError(
            repr(text[:80]),
            "cannot be a label tag.",
            "Use 1 to 64 letters, digits, `_`, `-` or `.`, with a letter or digit first.",
        )
    return text
