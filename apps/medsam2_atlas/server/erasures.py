"""Removes jobs and results of erased studies from the server's memory, and finishes interrupted erasures at its start."""

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


def watch_erasures(queue: JobQueue, erased: Erased, seconds: float = _LOOK_SECONDS) -> Callable[[], None]:
    """Starts a thread that regularly cancels and removes the jobs of erased studies.

    Args:
        queue: the server's jobs.
        erased: the erased studies.
        seconds: interval between two checks.

    Returns:
        A function that ends the thread.
    """
    stop = threading.Event()

    def gone(job: Job) -> bool:
        return erased.since(job.subject) > job.submitted

    def run() -> None:
        while not stop.wait(seconds):
            try:
                queue.forget(gone)
            except Exception:  # no error may end the thread
                log.exception("jobs of erased studies cannot be removed")

    threading.Thread(target=run, name="erasures", daemon=True).start()
    return stop.set
