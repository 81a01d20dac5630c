"""Names of studies and label tags that may become file names."""

from __future__ import annotations

import re

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.storage.folder import encodable

_LONGEST = 180  # bytes; file systems allow 255, and suffixes and temporary names need some
_STUDY = re.compile(r"[^\x00-\x1f\x7f/\\]+")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def study_name(text: str) -> str:
    """The text, if it can name a study: one file name without folders, in any script.

    Raises:
        InputError: empty, too long, hidden, or holding slashes or control characters.
    """
    good = bool(_STUDY.fullmatch(text)) and not text.startswith(".") and text == text.strip()
    if not good or not encodable(text) or len(text.encode()) > _LONGEST:
        raise InputError(
            repr(text[:80]),
            "cannot name a study.",
            f"Use 1 to {_LONGEST} bytes without slashes, control characters, or a dot or blank at the ends.",
        )
    return text


def tag_name(text: str) -> str:
    """The text, if it can name a label tag.

    Raises:
        InputError: not 1 to 64 of A-Z, a-z, 0-9, `_`, `-`, `.`, beginning with a letter or digit.
    """
    if not _TAG.fullmatch(text):
        raise InputError(
            repr(text[:80]),
            "cannot be a label tag.",
            "Use 1 to 64 letters, digits, `_`, `-` or `.`, with a letter or digit first.",
        )
    return text
