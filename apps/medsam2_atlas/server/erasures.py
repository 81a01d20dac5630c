"""Removes all data of erased studies from the server's memory, and finishes interrupted erasures at its start."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from medsam2_atlas.archive import Place
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.jobs import Job, JobQueue
from medsam2_atlas.erasing import finish_erasures
from medsam2_atlas.storage import Erased

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


def finish_interrupted(studies: str) -> None:
    """Finishes erasures that a crash has interrupted. An error is logged and does not prevent the server's start.

    Args:
        studies: folder of CTs, or URL of a DICOMweb server.
    """
    try:
        place = Place.of(studies)
        if place.root.is_dir():
            finish_erasures(place)
    except (OSError, MedSAM2AtlasError) as error:
        log.error("an interrupted erasure cannot be finished: %s", error)


def watch_erasures(
    queue: JobQueue, erased: Erased, forget_cases: Callable[[], bool], seconds: float = _LOOK_SECONDS
) -> Callable[[], None]:
    """Starts a thread that regularly cancels and removes the jobs of erased studies, and the kept data of their CTs.

    Kept data belongs to checksums, not to studies, so an erasure removes that of all CTs.

    Args:
        queue: the server's jobs.
        erased: the erased studies.
        forget_cases: removes the kept data of all CTs. If a case is running, which may keep data of its CT later, it returns
            False, and is called again.
        seconds: interval between two checks.

    Returns:
        A function that ends the thread.
    """
    stop = threading.Event()
    cases = _Cases(erased, forget_cases)

    def gone(job: Job) -> bool:
        return erased.since(job.subject) > job.submitted

    def run() -> None:
        while not stop.wait(seconds):
            try:
                queue.forget(gone)
                cases.forget_erased()
            except Exception:  # no error may end the thread
                log.exception("data of erased studies cannot be removed from memory")

    threading.Thread(target=run, name="erasures", daemon=True).start()
    return stop.set


class _Cases:
    """Removes the kept data of CTs after each erasure."""

    def __init__(self, erased: Erased, forget: Callable[[], bool]) -> None:
        self._erased, self._forget = erased, forget
        self._seen: dict[str, float] = {}
        self._pending = False

    def forget_erased(self) -> None:
        """Removes the data if a study was erased since the last call, or if a case was running at the last call."""
        times = dict(self._erased.times())
        self._pending |= times != self._seen
        self._seen = times
        if self._pending:
            self._pending = not self._forget()
