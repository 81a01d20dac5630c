"""Remembers who has opened which case in a viewer, so that other people get other cases next.

It is kept in memory only: opening a case changes no file, and works for a series of a PACS that has not been fetched. After a
restart, cases are free until a viewer opens them again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

IN_WORK_SECONDS = 30 * 60
"""Time in seconds for which a case that a person has opened, or was assigned to a client, is not the next case of others."""


class OpenedCases:
    """The cases that people have opened in the last half hour. Thread-safe.

    Concurrency contract. One lock guards the entries and is held only to read or change them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without entries.

        Args:
            clock: returns the time in seconds and must never go back.
        """
        self._clock, self._lock = clock, threading.Lock()
        self._opened: dict[tuple[str, str], float] = {}

    def add(self, study: str, person: str) -> None:
        """Records that a person has opened a case now.

        Args:
            study: name of the study.
            person: unique id of the person.
        """
        with self._lock:
            now = self._clock()
            self._opened = {key: since for key, since in self._opened.items() if now - since < IN_WORK_SECONDS}
            self._opened[study, person] = now

    def people(self, study: str) -> set[str]:
        """Returns the ids of the people who have opened a case in the last half hour."""
        with self._lock:
            now = self._clock()
            return {who for (name, who), since in self._opened.items() if name == study and now - since < IN_WORK_SECONDS}
