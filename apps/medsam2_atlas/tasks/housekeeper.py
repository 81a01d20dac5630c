"""Checks stored label maps and images in the background, so that a change by another program is noticed soon.

The check has its own thread, because a server with a PACS, for example, may run no learner. A check starts only while no
request is being served.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

_FIRST_SECONDS = 20.0
_EVERY_SECONDS = 600.0
_LOOK_SECONDS = 5.0
_STOP_SECONDS = 5.0


class Auditable(Protocol):
    """A store of studies."""

    def audit(self, stop: threading.Event) -> int:
        """Compares the files with their records until `stop` is set; returns the number of checked label maps."""
        ...


class Housekeeper:
    """The thread."""

    def __init__(self, store: Callable[[], Auditable], idle: Callable[[], bool]) -> None:
        """Prepares the thread; `start` starts it.

        Args:
            store: returns the server's store of studies.
            idle: returns whether no request is being served.
        """
        self._store, self._idle = store, idle
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, which ends with the process at the latest."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops the thread after the current file; waits for that for a few seconds at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        wait = _FIRST_SECONDS
        while not self._stop.wait(wait):
            wait = _LOOK_SECONDS
            if not self._idle():
                continue
            try:
                self._store().audit(self._stop)
            except Exception:  # an error of a file or the disk must not end the thread
                log.exception("the stored files could not be checked; the check is repeated later")
            wait = _EVERY_SECONDS
