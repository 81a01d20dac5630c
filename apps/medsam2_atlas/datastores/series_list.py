"""The list of a PACS' series, refreshed in the background and stored on disk, so that callers need not wait for a slow PACS.

Concurrency contract. At most one daemon thread queries the PACS at a time, without holding a lock. One lock guards the fields
and is held only to read or set them. Callers get the last list regardless of its age; they wait briefly for a refresh, or
longer if there is no list yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError, UnavailableError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.base.kept import Kept
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.dicom.uids import cleaned_uid
from medsam2_atlas.dicom.web_answers import first_value

log = logging.getLogger(__name__)

_FRESH_SECONDS = 20.0
"""Age in seconds from which a list is refreshed."""
_RETRY_SECONDS = 2.0
"""Min time in seconds between two queries."""
_SOON_SECONDS = 0.5
"""Max time in seconds that a caller waits for a new list if there is an old one."""
_FIRST_SECONDS = 3.0
"""Max waiting time in seconds if there is no list, or if the old list lacks the requested series."""
_SILENT = "The PACS does not answer."
_UNUSABLE = "The PACS answers with an error, or with something other than a list of its CTs."
NEVER_LISTED = "The PACS has not listed its CTs yet."
_UIDS = _STUDY, _SERIES = "StudyInstanceUID", "SeriesInstanceUID"
_TAGS = {
    _STUDY: "0020000D",
    _SERIES: "0020000E",
    "PatientID": "00100020",
    "PatientName": "00100010",
    "StudyDate": "00080020",
    "StudyDescription": "00081030",
    "Modality": "00080060",
    "SeriesDescription": "0008103E",
}

SeriesByUid = Mapping[str, Mapping[str, str]]
"""The attributes `_TAGS` of each series as texts, by Series Instance UID."""


class SeriesList:
    """The last list of a PACS' series, which is refreshed when it is read. Thread-safe."""

    def __init__(
        self, query: Callable[[], list[Any]], file: Path, hidden: Callable[[Collection[str]], Collection[str]] = lambda _: ()
    ) -> None:
        """Reads the last list from disk; sends no request yet.

        Args:
            query: requests all series from the PACS and returns them as DICOM JSON; may be slow.
            file: file that keeps the last list across restarts.
            hidden: returns those of the given series that must not be listed, because they were erased; the same object for the
                same series until that changes.
        """
        self._query, self._file, self._hidden = query, file, hidden
        self.changed: Callable[[], object] = lambda: None
        """Called in the thread of the query after the list has changed."""
        self._lock = threading.Lock()
        self._found: SeriesByUid | None = self._stored()
        self._shown: Kept[SeriesByUid] = Kept()
        self._problems: dict[str, str] = {}
        self._asked = self._tried = self._began = float("-inf")
        self._failure = ""
        self._running: threading.Event | None = None

    def get(self) -> SeriesByUid | None:
        """Returns the series of the last list; None if there was never a list."""
        return self._at_most(_FRESH_SECONDS, _SOON_SECONDS)

    def last(self) -> SeriesByUid | None:
        """Returns the series of the last list without waiting for a new one; the same object until the list changes."""
        return self._at_most(_FRESH_SECONDS, 0.0, first=0.0)

    def find(self, series: str) -> Mapping[str, str] | None:
        """Returns the attributes of a series; refreshes the list if it lacks the series."""
        found = self.get() or {}
        if series not in found:
            found = self._at_most(_RETRY_SECONDS, _FIRST_SECONDS) or {}
        return found.get(series)

    def problems(self) -> dict[str, str]:
        """Returns the reasons why series of the PACS are not in the list, by their UID in the PACS."""
        with self._lock:
            return dict(self._problems)

    def failure(self, silent: bool) -> str:
        """Returns why the list may be out of date, or why there is none, as a sentence for everybody; empty if it is current.

        The log has the details, which may contain the address of the PACS.

        Args:
            silent: whether the PACS does not answer other requests either; the current query may still be waiting for it.
        """
        with self._lock:
            if self._failure:
                return self._failure
            return _SILENT if silent else NEVER_LISTED if self._found is None else ""

    def _at_most(self, age: float, patience: float, first: float = _FIRST_SECONDS) -> SeriesByUid | None:
        """Returns the list; refreshes one that is older than `age` seconds and waits up to `patience` seconds for that.

        It waits up to `first` seconds if there is no list.
        """
        with self._lock:
            now = time.monotonic()
            if self._running is None and now - self._asked > age and now - self._tried > _RETRY_SECONDS:
                self._running, self._began = threading.Event(), now
                threading.Thread(target=self._refresh, args=(self._running,), name="series list", daemon=True).start()
            running, began = self._running, self._began
            if self._found is None:
                patience = first
        if running is not None:
            running.wait(max(0.0, began + patience - now))
        with self._lock:
            found = self._found
        return None if found is None else self._visible(found)

    def _visible(self, found: SeriesByUid) -> SeriesByUid:
        """Returns the series that may be listed; the same object until the list or `hidden` changes."""
        hidden = self._hidden(found)
        if not hidden:
            return found
        return self._shown.of(
            (found, hidden), lambda: {series: about for series, about in found.items() if series not in hidden}
        )

    def _refresh(self, done: threading.Event) -> None:
        failure = _UNUSABLE
        try:
            answered, problems = _checked(self._query())
            failure = ""
            found = self._visible(answered)
            with self._lock:
                changed, known = found != self._found, self._problems
                if changed:
                    self._found = found
                self._problems, self._asked = problems, time.monotonic()
            for name, problem in problems.items():
                if name in known:
                    continue
                log.warning("series %s of the PACS is left out: it %s", name, problem)
            try:
                if changed:
                    write_json(list(found.values()), self._file)
                if len(self._visible(found)) < len(found):  # a series was erased during the refresh
                    write_json(list(self._visible(found).values()), self._file)
            finally:  # others need the list also if it cannot be stored
                if changed:
                    self._tell()
        except (MedSAM2AtlasError, OSError) as error:
            failure = _SILENT if isinstance(error, UnavailableError) else failure
            log.warning("the series of the PACS cannot be listed, or the list cannot be stored: %s", error)
        except Exception:  # an invalid answer of the PACS must not remove the last list
            log.exception("the series of the PACS cannot be listed")
        finally:
            with self._lock:
                self._running, self._tried, self._failure = None, time.monotonic(), failure
            done.set()

    def _tell(self) -> None:
        """Calls `changed`. Its error is none of the PACS."""
        try:
            self.changed()
        except Exception:
            log.exception("the new list of the PACS' series was not used")

    def _stored(self) -> SeriesByUid | None:
        """Returns the list stored on disk; None if it cannot be read."""
        try:
            entries = stored_json(self._file.read_text(encoding="utf-8"))
            # Lists of earlier versions lack some attributes.
            found = [{tag: str(entry[tag] if tag in _UIDS else entry.get(tag, "")) for tag in _TAGS} for entry in entries]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return {entry[_SERIES]: entry for entry in found if cleaned_uid(entry[_SERIES]) and cleaned_uid(entry[_STUDY])}


def _checked(answers: list[Any]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Returns the series of an answer by UID, and the problems of those that are left out."""
    found: dict[str, dict[str, str]] = {}
    problems: dict[str, str] = {}
    for answer in answers:
        about = {tag: first_value(answer, number) for tag, number in _TAGS.items()}
        name = repr(about[_SERIES][:80])
        uids = {tag: cleaned_uid(about[tag]) for tag in (_STUDY, _SERIES)}
        if not all(uids.values()):
            which = _SERIES if not uids[_SERIES] else _STUDY
            problems[name] = f"has an invalid {which}: {about[which][:80]!r}. Correct it in the PACS."
        else:
            found[uids[_SERIES]] = {tag: line(value, 256) for tag, value in about.items()} | uids
    return found, problems
