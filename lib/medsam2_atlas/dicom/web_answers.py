"""Parts of a DICOMweb server's answers: values in DICOM JSON, the file format of objects, reasons of failures."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

_CONNECTION = re.compile(r"HTTPS?Connection(?:Pool)?\(host='([^']*)', port=(\d+)\): ")
"""How urllib3 begins the text of an error."""
_PREAMBLE = b"\0" * 128
_FAILED, _REASON = "00081198", "00081197"
_FORMS = ("Alphabetic", "Ideographic", "Phonetic")
"""The forms of a person's name in DICOM JSON, the preferred one first."""


def first_value(answer: Any, number: str) -> str:
    """Returns the first value of an attribute in DICOM JSON as a text; empty if there is none.

    Example:
        >>> first_value({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}, "00100010")
        'Doe^Jane'
    """
    attribute = answer.get(number) if isinstance(answer, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, dict):  # the name of a person
        first = next((first[form] for form in _FORMS if first.get(form)), None)
    return str(first).encode("utf-8", "replace").decode() if isinstance(first, (str, int, float)) else ""


def add_preamble(file: Path) -> None:
    """Adds the preamble and the prefix to an object that a server sent without them, so that it is a DICOM file."""
    with file.open("rb") as stream:
        begin = stream.read(132)
    if begin[128:132] == b"DICM":
        return
    if begin[:4] == b"DICM":
        missing = _PREAMBLE
    elif begin[:2] == b"\x02\x00":
        missing = _PREAMBLE + b"DICM"
    else:
        return  # the reader of the series reports the problem
    part = file.with_suffix(".part")
    with part.open("xb") as target, file.open("rb") as stream:
        target.write(missing)
        while block := stream.read(1 << 20):
            target.write(block)
    os.replace(part, file)


def failures(content: bytes) -> list[int]:
    """Returns the failure reasons of the objects that were not stored, from a STOW-RS answer in JSON."""
    try:
        about = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        return []  # XML or empty: the caller decides by the status alone
    if isinstance(about, list):
        about = about[0] if about else {}
    failed = about.get(_FAILED, {}) if isinstance(about, dict) else {}
    items = failed.get("Value", []) if isinstance(failed, dict) else []
    found = []
    for item in items if isinstance(items, list) else []:
        value = item.get(_REASON, {}) if isinstance(item, dict) else {}
        values = value.get("Value") if isinstance(value, dict) else None
        found.append(values[0] if isinstance(values, list) and values and isinstance(values[0], int) else 0)
    return found


def short(error: Exception) -> str:
    """Returns host, port and reason of an error of `requests`; urllib3 also writes its classes and the whole query.

    >>> short(ValueError("HTTPConnectionPool(host='pacs', port=8042): Read timed out."))
    'pacs:8042: Read timed out.'
    """
    reason = getattr(error.args[0], "reason", None) if error.args else None
    text = str(reason or error) or type(error).__name__
    return _CONNECTION.sub(r"\1:\2: ", text)[:300]
