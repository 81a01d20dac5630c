"""Makes texts valid for DICOM's value representations (PS3.5, 6.2). Texts are cut, cleaned or emptied, never refused."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]+")
_DATE = re.compile(r"(1[0-9]|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_LONG, _SHORT = 64, 16
_GROUPS, _COMPONENTS = 3, 5


def line(value: Any, length: int = _LONG) -> str:
    r"""Returns a text of one line (LO, SH) with at most `length` characters and no backslash, which separates values.

    Examples:
        >>> line("liver\\spleen\n")
        'liver spleen'
    """
    text = _CONTROL.sub(" ", "" if value is None else str(value).encode("utf-8", "replace").decode()).strip()
    return text[:length].strip()


def person_name(value: Any) -> str:
    """Returns a person's name (PN): at most three groups of five components; a group has at most 64 characters."""
    groups = line(value, _GROUPS * (_LONG + 1)).split("=")[:_GROUPS]
    return "=".join("^".join(group.split("^")[:_COMPONENTS])[:_LONG] for group in groups).rstrip("=")


def code_string(value: str) -> str:
    """Returns a code string (CS): at most 16 upper-case letters, digits and underscores; the first is a letter.

    Examples:
        >>> code_string("final 2")
        'FINAL_2'
    """
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in value.upper()).strip("_")
    return (text if text[:1].isalpha() else f"LABEL_{text}".rstrip("_"))[:_SHORT]


def date(value: Any) -> str:
    """Returns a date (DA), YYYYMMDD; empty if the value is not a date."""
    text = str(value or "").strip()
    return text if _DATE.fullmatch(text) else ""


def time_of_day(value: Any) -> str:
    """Returns a time (TM), HHMMSS.FFFFFF or the beginning of this form; empty if the value is not a time."""
    text = str(value or "").strip()
    return text if _TIME.fullmatch(text) else ""


def decimal(value: float) -> str:
    """Returns a number as a decimal string (DS) of at most 16 characters."""
    return next(text for digits in range(12, 0, -1) if len(text := f"{value:.{digits}g}") <= _SHORT)
