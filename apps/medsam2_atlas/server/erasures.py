"""Lets go of what the server holds of studies that a command has erased: their jobs and results, and interrupted erasures."""

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
    """Finishes erasures that a crash has interrupted; one that cannot be finished does not keep the server from starting."""
    try:
        place = Place.of(studies)
        if place.root.is_dir():
            finish_erasures(place)
    except (OSError, MedSAM2AtlasError) as error:
        log.error("an interrupted erasure is not finished: %s", error)


def watch_erasures(queue: JobQueue, erased: Erased, seconds: float = _LOOK_SECONDS) -> Callable[[], None]:
    """Starts a thread that cancels and forgets jobs of erased studies, every so many seconds; returns what ends it."""
    stop = threading.Event()

    def gone(job: Job) -> bool:
        return erased.since(job.subject) > job.submitted

    def run() -> None:
        while not stop.wait(seconds):
            try:
                queue.forget(gone)
            except Exception:  # no error may end the thread
                log.exception("jobs of erased studies cannot be looked for")

    threading.Thread(target=run, name="erasures", daemon=True).start()
    return stop.set
