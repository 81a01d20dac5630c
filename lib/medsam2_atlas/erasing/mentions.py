"""Looks for a study's name in names and texts of files, so that nothing that still holds it goes unnoticed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

_TEXTS = frozenset({".json", ".jsonl", ".log", ".txt", ".csv", ".yaml", ".html", ".sqlite", ".lst", ""})
_MAX_BYTES = 1 << 28
_MIN_CHARACTERS = 4
"""Shorter names stand in texts by chance."""


def mentions_name(text: str, study: str) -> bool:
    """Returns whether a text holds a study's name as a whole word, in upper or lower case."""
    word = rf"(?<![\w.-]){re.escape(study)}(?![\w-])"
    return len(study) >= _MIN_CHARACTERS and re.search(word, text, re.IGNORECASE) is not None


def mentions(folder: Path, study: str) -> Iterator[Path]:
    """Yields files and folders whose names are a study's, and texts and databases that hold its name as a whole word."""
    spellings = {study, json.dumps(study)[1:-1]}
    words = re.compile(b"|".join(rb"(?<![\w.-])" + re.escape(text.encode()) + rb"(?![\w-])" for text in sorted(spellings)))
    for path in folder.rglob("*"):
        if study in path.parts[len(folder.parts) :] or path.name.startswith(f"{study}."):
            yield path
        elif len(study) >= _MIN_CHARACTERS and path.suffix.lower() in _TEXTS and path.is_file() and not path.is_symlink():
            try:
                if path.stat().st_size <= _MAX_BYTES and words.search(path.read_bytes()):
                    yield path
            except OSError:  # it was removed just now, or belongs to another user
                continue
