"""Works in the background while no request is being served: checks stored files, and computes the team's figures.

Stored label maps and images are checked every ten minutes, so that a change by another program is noticed soon. Figures of new
versions are computed one study at a time, after each label map that is signed off, and every ten minutes. Both have a thread of
their own, because a server with a PACS, for example, may run no learner.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.team import measure_next

log = logging.getLogger(__name__)

_FIRST_SECONDS = 20.0
_EVERY_SECONDS = 600.0
_LOOK_SECONDS = 5.0
_REST_SECONDS = 0.05
_STOP_SECONDS = 5.0


class Housekeeper:
    """The thread."""

    def __init__(self, studies: Callable[[], StudyDatastore], idle: Callable[[], bool]) -> None:
        """Prepares the thread; `start` starts it.

        Args:
            studies: returns the server's studies.
            idle: returns whether no request is being served.
        """
        self._studies, self._idle = studies, idle
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
        due, wait, more = time.monotonic() + _FIRST_SECONDS, min(_FIRST_SECONDS, _LOOK_SECONDS), False
        while not self._stop.wait(wait):
            wait = _LOOK_SECONDS
            if not self._idle():
                continue
            if time.monotonic() >= due:
                self._check()
                due, more = time.monotonic() + _EVERY_SECONDS, True
            if more or self._signed_off():
                more = self._measured()
                wait = _REST_SECONDS if more else wait

    def _check(self) -> None:
        try:
            self._studies().store.audit(self._stop)
        except Exception:  # an error of a file or the disk must not end the thread
            log.exception("the stored files could not be checked; the check is repeated later")

    def _signed_off(self) -> bool:
        """Returns whether a label map was signed off since the last call."""
        signed_off = self._studies().signed_off
        if not signed_off.is_set():
            return False
        signed_off.clear()
        return True

    def _measured(self) -> bool:
        try:
            studies = self._studies()
            return measure_next(studies.store, studies.figures)
        except Exception:
            log.exception("the team's figures could not be computed; this is repeated later")
            return False
