"""Searches the names and contents of files for a study's name, to report every file that still contains it.

The names of other studies may contain it too, as `case.b` contains `case`. Files with only such names are not reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from medsam2_atlas.base.files import opened
from medsam2_atlas.imaging.kinds import stem_of

_TEXTS = frozenset({".json", ".jsonl", ".log", ".txt", ".csv", ".yaml", ".html", ".sqlite", ".lst", ""})
_MAX_BYTES = 1 << 28
_MIN_CHARACTERS = 4
"""Min length of a name that is searched for; texts contain shorter names by chance."""


def mentions_name(text: str, study: str) -> bool:
    """Returns whether a text contains a study's name as a whole word, in upper or lower case.

    >>> mentions_name("withdrawal of CASE-7", "case-7"), mentions_name("withdrawal of case-70", "case-7")
    (True, False)
    """
    word = rf"(?<![\w.-]){re.escape(study)}(?![\w-])"
    return len(study) >= _MIN_CHARACTERS and re.search(word, text, re.IGNORECASE) is not None


def mentions(folder: Path, study: str, others: Iterable[str] = ()) -> Iterator[Path]:
    """Yields files and folders with a study's name, and texts and databases that contain the name as a whole word.

    Args:
        folder: the folder to search.
        study: the name of the study.
        others: the names of other studies.
    """
    spellings = {study, json.dumps(study)[1:-1]}
    words = re.compile(
        b"|".join(rb"(?<![\w.-])" + re.escape(_encoded(text)) + rb"(?![\w-])(?!\.\d)" for text in sorted(spellings))
    )
    containing = [other for other in others if study in other and other != study]
    longer = {_encoded(text) for other in containing for text in (other, json.dumps(other)[1:-1])}
    places = {(match.start(), len(other)) for other in longer for match in re.finditer(re.escape(_encoded(study)), other)}
    for path in folder.rglob("*"):
        if study in path.parts[len(folder.parts) :] or (stem_of(path.name) == study and not path.is_dir()):
            yield path
        elif len(study) >= _MIN_CHARACTERS and path.suffix.lower() in _TEXTS and not path.is_symlink():
            try:
                if path.stat().st_size > _MAX_BYTES:
                    continue
                with opened(path) as stream:
                    content = stream.read()
            except OSError:  # it is a folder, has just been removed, or belongs to another user
                continue
            for match in words.finditer(content):
                starts = ((match.start() - before, length) for before, length in places)
                if not any(start >= 0 and content[start : start + length] in longer for start, length in starts):
                    yield path
                    break


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
