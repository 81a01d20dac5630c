"""Study names and UIDs in log lines become keyed hashes: `study-1a2b3c4d5e`.

Names are those of files in the studies folder and its `labels`, those that were found there before, and those that the request
which is served names. All dotted numbers in the form of UIDs count as names, apart from DICOM's own. Names without a letter or
digit are left as they are, and so are numbers of up to three digits, as slices of a series have: they say nothing about a
patient, and their hashes would stand in place of counts, seconds and the numbers of graphics cards.

The folder is listed again when a message is formatted: at once if it has changed and the message is one of the storage, which
tells of files that have just been found, otherwise every few seconds, in a thread. No lock is held meanwhile, and formatting
never waits for a listing that another thread makes.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

from medsam2_atlas.base.study_hash import StudyNames
from medsam2_atlas.imaging.kinds import stem_of
from server.context import mentioned

_DOTTED = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}")
_DICOM_S_OWN = "1.2.840.10008."
_UID_PARTS, _UID_LENGTH = 5, 16
"""Dotted numbers with fewer parts and characters may be addresses or versions."""
_WORD = re.compile(r"[^\W_]+")
_SMALL_NUMBER = re.compile(r"\d{1,3}", re.ASCII)
_SECONDS = 5.0
_MAX_ARGUMENT = 80
"""Messages show names of unknown studies up to this length."""
_Index = tuple[dict[str, str], dict[str, tuple[tuple[int, int], ...]]]


class LogNames:
    """Hides study names in text. The index is replaced as a whole, so that any thread may read it."""

    def __init__(
        self, names: StudyNames, listed: Callable[[], Iterable[str]], changed: Callable[[], object] = time.time
    ) -> None:
        """
        Args:
            names: makes the hashes.
            listed: returns all names now; may be called in any thread.
            changed: returns a value that differs if names may have been added.
        """
        self._names, self._listed, self._changed = names, listed, changed
        self._forms: dict[str, str] = {}
        self._index: _Index = ({}, {})
        self._state: object = None
        self._next, self._listing = 0.0, threading.Lock()
        self.refresh()

    def hide(self, text: str, urgent: bool = False) -> str:
        """Returns a text with hashes in place of names. urgent: the text may hold a name that was found just now."""
        if self._names.plain:
            return text
        if urgent and self._changed() != self._state:
            self.refresh()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            with suppress(RuntimeError):  # the process ends, or may start no more threads
                threading.Thread(target=self.refresh, name="log-names", daemon=True).start()
        found = _replaced(text, self._index, self._names.hashed)
        asked = _telling(mentioned())
        if asked:
            found = _replaced(found, _index_of(_forms(asked)), self._names.hashed)
        return _DOTTED.sub(self._uid, found)

    def refresh(self) -> None:
        """Adds the names that are there now, unless another thread does so; names that are gone stay known."""
        if self._names.plain or not self._listing.acquire(blocking=False):
            return
        try:
            self._state, self._next = self._changed(), time.monotonic() + _SECONDS
            new = _telling(self._listed()).difference(self._forms.values())
            if new:
                self._forms = {**self._forms, **_forms(new)}
                self._index = _index_of(self._forms)
        except OSError:  # a folder that cannot be listed now; logging that would lead back here
            pass
        finally:
            self._listing.release()

    def _uid(self, match: re.Match[str]) -> str:
        text = match[0]
        named = text.count(".") + 1 >= _UID_PARTS or len(text) >= _UID_LENGTH
        return self._names.hashed(text) if named and not text.startswith(_DICOM_S_OWN) else text


def names_in(studies: Path) -> Iterator[str]:
    """Yields the names that files of a studies folder give away: of studies, of label maps, and of files that links lead to.

    Raises:
        OSError: the folder cannot be listed.
    """
    yield from _stems(studies)
    labels = studies / "labels"
    if labels.is_dir():
        for entry in os.scandir(labels):
            if entry.is_dir():
                yield from _stems(entry.path)


def _stems(folder: str | Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "labels":
                continue
            yield stem_of(entry.name)
            if entry.is_symlink():
                yield stem_of(Path(entry.path).readlink().name)


def _telling(names: Iterable[str]) -> set[str]:
    """Returns the names that are no small numbers."""
    return {name for name in names if not _SMALL_NUMBER.fullmatch(name)}


def _forms(names: Iterable[str]) -> dict[str, str]:
    """Returns the texts that tell a name, as it is, escaped or cut, and the names that they tell."""
    found: dict[str, str] = {}
    for name in names:
        texts = (name, repr(name)[1:-1], json.dumps(name)[1:-1], json.dumps(name[:_MAX_ARGUMENT])[1:-1], name[:_MAX_ARGUMENT])
        encoded = name.encode("utf-8", "surrogateescape")
        found.update(dict.fromkeys((*texts, quote(encoded), quote_plus(encoded)), name))
    return found


def _index_of(forms: dict[str, str]) -> _Index:
    """Returns the forms, and by each form's first word where the form begins before it and how long it is, longest first."""
    places: dict[str, set[tuple[int, int]]] = {}
    for form in forms:
        word = _WORD.search(form)
        if word:
            places.setdefault(word[0], set()).add((word.start(), len(form)))
    return forms, {word: tuple(sorted(found, key=lambda place: -place[1])) for word, found in places.items()}


def _replaced(text: str, index: _Index, hashed: Callable[[str], str]) -> str:
    """Returns a text with hashes in place of the forms in it. Cheap for any number of forms: words are looked up."""
    forms, places = index
    pieces, end = [], 0
    for word in _WORD.finditer(text):
        for before, length in places.get(word[0], ()):
            start = word.start() - before
            stop = start + length
            cut = stop < len(text) and _WORD.match(text, stop - 1) and _WORD.match(text, stop)
            if start >= end and not cut and text[start:stop] in forms:
                pieces += [text[end:start], hashed(forms[text[start:stop]])]
                end = stop
                break
    return "".join((*pieces, text[end:]))
