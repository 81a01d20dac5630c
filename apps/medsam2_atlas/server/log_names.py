"""Replaces study names and UIDs in log lines with keyed hashes such as `study-1a2b3c4d5e`.

The names come from three sources: the files that are or were in the studies folder and its `labels`, the current request, and
all dotted numbers in the form of UIDs except DICOM's own. Two kinds of names stay unchanged: names without a letter or digit,
and numbers of up to three digits, such as the slices of a series. Such numbers identify no patient, and replacing them would
also hash counts, seconds and the numbers of graphics cards.

Formatting a message may list the folder again. It does so at once if the folder has changed and the message is from the
storage, because such messages are about new files. Otherwise a thread lists the folder every few seconds. No lock is held
meanwhile, and formatting never waits for a listing in another thread.
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
"""Dotted numbers with fewer parts and fewer characters may be IP addresses or versions."""
_WORD = re.compile(r"[^\W_]+")
_SMALL_NUMBER = re.compile(r"\d{1,3}", re.ASCII)
_SECONDS = 5.0
_MAX_ARGUMENT = 80
"""Messages contain names of unknown studies up to this length."""
_Index = tuple[dict[str, str], dict[str, tuple[tuple[int, int], ...]]]


class LogNames:
    """Replaces study names in texts. The index is exchanged as a whole, so that any thread may read it."""

    def __init__(
        self, names: StudyNames, listed: Callable[[], Iterable[str]], changed: Callable[[], object] = time.time
    ) -> None:
        """Lists the names for the first time.

        Args:
            names: makes the hashes.
            listed: returns all present names; may be called in any thread.
            changed: returns a value that changes whenever names may have been added.
        """
        self._names, self._listed, self._changed = names, listed, changed
        self._forms: dict[str, str] = {}
        self._index: _Index = ({}, {})
        self._state: object = None
        self._next, self._listing = 0.0, threading.Lock()
        self.refresh()

    def hide(self, text: str, urgent: bool = False) -> str:
        """Returns a text with hashes in place of names.

        Args:
            text: any text.
            urgent: whether the text may contain a name that is newer than the last listing.
        """
        if self._names.plain:
            return text
        if urgent and self._changed() != self._state:
            self.refresh()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            with suppress(RuntimeError):  # the process is ending, or cannot start more threads
                threading.Thread(target=self.refresh, name="log-names", daemon=True).start()
        found = _replaced(text, self._index, self._names.hashed)
        in_request = _identifying(mentioned())
        if in_request:
            found = _replaced(found, _index_of(_forms(in_request)), self._names.hashed)
        return _DOTTED.sub(self._uid, found)

    def refresh(self) -> None:
        """Adds the present names, unless another thread is doing so. Earlier names stay known."""
        if self._names.plain or not self._listing.acquire(blocking=False):
            return
        try:
            self._state, self._next = self._changed(), time.monotonic() + _SECONDS
            new = _identifying(self._listed()).difference(self._forms.values())
            if new:
                self._forms = {**self._forms, **_forms(new)}
                self._index = _index_of(self._forms)
        except OSError:  # the folder cannot be listed now; logging the error would call this method again
            pass
        finally:
            self._listing.release()

    def _uid(self, match: re.Match[str]) -> str:
        text = match[0]
        named = text.count(".") + 1 >= _UID_PARTS or len(text) >= _UID_LENGTH
        return self._names.hashed(text) if named and not text.startswith(_DICOM_S_OWN) else text


def names_in(studies: Path) -> Iterator[str]:
    """Yields the names in a studies folder: of images, of label maps, and of the files that links point to.

    Args:
        studies: folder of CTs with its subfolder `labels`.

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


def _identifying(names: Iterable[str]) -> set[str]:
    """Returns the names that are not small numbers."""
    return {name for name in names if not _SMALL_NUMBER.fullmatch(name)}


def _forms(names: Iterable[str]) -> dict[str, str]:
    """Returns all written forms of the names (unchanged, escaped, shortened), each with its name."""
    found: dict[str, str] = {}
    for name in names:
        texts = (name, repr(name)[1:-1], json.dumps(name)[1:-1], json.dumps(name[:_MAX_ARGUMENT])[1:-1], name[:_MAX_ARGUMENT])
        encoded = name.encode("utf-8", "surrogateescape")
        found.update(dict.fromkeys((*texts, quote(encoded), quote_plus(encoded)), name))
    return found


def _index_of(forms: dict[str, str]) -> _Index:
    """Returns the forms and an index of their first words.

    The index maps each first word to pairs (characters before the word, length of the form), the longest form first.
    """
    pairs: dict[str, set[tuple[int, int]]] = {}
    for form in forms:
        word = _WORD.search(form)
        if word:
            pairs.setdefault(word[0], set()).add((word.start(), len(form)))
    return forms, {word: tuple(sorted(found, key=lambda pair: -pair[1])) for word, found in pairs.items()}


def _replaced(text: str, index: _Index, hashed: Callable[[str], str]) -> str:
    """Returns a text with hashes in place of its names. The time hardly depends on the number of forms: words are looked up."""
    forms, pairs = index
    pieces, end = [], 0
    for word in _WORD.finditer(text):
        for before, length in pairs.get(word[0], ()):
            start = word.start() - before
            stop = start + length
            cut = stop < len(text) and _WORD.match(text, stop - 1) and _WORD.match(text, stop)
            if start >= end and not cut and text[start:stop] in forms:
                pieces += [text[end:start], hashed(forms[text[start:stop]])]
                end = stop
                break
    return "".join((*pieces, text[end:]))
