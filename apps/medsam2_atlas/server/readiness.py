"""`/readyz` shows whether label maps can be saved and studies loaded. `/healthz` only shows that the process answers.

The checks write to the disk and use a reader process, so frequent requests must not repeat them. One check runs at a time, in a
daemon thread, and its result is reused for `_KEPT_SECONDS`. Requests do not wait for a check that hangs, for example on a
network disk that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request
from monailabel.interfaces.utils.app import app_instance
from starlette.responses import Response

from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.audit.log import AuditLog
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging import decoding
from medsam2_atlas.storage import StudyStore
from server.access import user_of
from server.answers import JsonAnswer

log = logging.getLogger(__name__)
router = APIRouter(tags=["Others"])

_KEPT_SECONDS = 5.0
_WAIT_SECONDS = 3.0
_LATE_SECONDS = 30.0
"""Max age of a result that is still used while the next check is slow."""


@dataclass(frozen=True)
class Trouble:
    """A reason why the server is not ready: the failing part, its problem and the remedy."""

    what: str
    problem: str
    remedy: str


class Readiness:
    """Runs checks and keeps their results for some seconds. Must be used in the event loop."""

    def __init__(self, check: Callable[[], Sequence[Trouble]]) -> None:
        """Creates the checker; it runs no check yet.

        Args:
            check: returns the troubles; runs in a thread.
        """
        self._check = check
        self._running: asyncio.Future[tuple[Trouble, ...]] | None = None
        self._found: tuple[Trouble, ...] = ()
        self._ended = float("-inf")

    async def troubles(self) -> tuple[Trouble, ...]:
        """Returns the troubles; empty if the server is ready."""
        if time.monotonic() - self._ended > _KEPT_SECONDS:
            if self._running is None:
                self._running = asyncio.wrap_future(self._started())
                self._running.add_done_callback(self._done)
            await asyncio.wait({self._running}, timeout=_WAIT_SECONDS)
            if time.monotonic() - self._ended > _LATE_SECONDS:
                return (Trouble("checks", f"did not end within {_WAIT_SECONDS:.0f} s.", "Is the disk reachable?"),)
        return self._found

    def _done(self, running: asyncio.Future[tuple[Trouble, ...]]) -> None:
        self._running = None
        if not running.cancelled():
            self._found, self._ended = running.result(), time.monotonic()

    def _started(self) -> Future[tuple[Trouble, ...]]:
        outcome: Future[tuple[Trouble, ...]] = Future()

        def run() -> None:
            try:
                found = tuple(self._check())
            except Exception as error:
                log.exception("the readiness checks failed")
                found = (Trouble("checks", f"failed ({error}).", "See the log for details."),)
            for trouble in found:
                log.warning("not ready: %s: %s %s", trouble.what, trouble.problem, trouble.remedy)
            outcome.set_result(found)

        threading.Thread(target=run, name="readiness", daemon=True).start()
        return outcome


@router.get("/readyz", summary="Whether label maps can be saved and studies loaded")
async def readyz(request: Request) -> Response:
    """Returns 200 or 503 with `ready`. Only admins also get the reasons (`problems`)."""
    readiness: Readiness = request.app.state.readiness
    stopping = request.app.state.stopping.begun
    found = (Trouble("server", "is stopping.", "Start it again."),) if stopping else await readiness.troubles()
    tokens = request.app.state.access.problem
    if tokens:
        found = (*found, Trouble("tokens", tokens, "Correct the file. Until then, its users cannot log in."))
    about: dict[str, Any] = {"ready": not found}
    if user_of(request).may("admin"):
        about["problems"] = [asdict(trouble) for trouble in found]
    return JsonAnswer(about, 503 if found else 200)


def check_audit(audit: AuditLog | None) -> list[Trouble]:
    """Tries to write the waiting lines of the audit log; returns the trouble if that fails."""
    if audit is None or audit.flush():
        return []
    return [Trouble("audit log", audit.problem, "Make its folder writable, and free some space on its disk.")]


def check_server() -> list[Trouble]:
    """Returns the troubles of this process' server."""
    datastore = app_instance().datastore()
    store: StudyStore | None = getattr(datastore, "store", None)
    found = []
    problem = store.writable() if store is not None else ""
    if problem:
        found.append(Trouble("saving labels", problem, "Free some space on the studies' disk, or make it writable."))
    elif store is not None and (problem := _no_index(store)):
        found.append(Trouble("index", problem, "The server rebuilds it from the files. See the log for why that fails."))
    problem = _no_scratch()
    if problem:
        found.append(Trouble("uploads", problem, "Free some space in the folder for temporary files (TMPDIR)."))
    problem = decoding.alive()
    if problem:
        found.append(Trouble("loading studies", problem, "See the log for details. Restart the server if this continues."))
    problem = datastore.web.breaker.problem if isinstance(datastore, PacsDatastore) else ""
    if problem:
        found.append(Trouble("PACS", f"It does not answer ({problem}).", "Is it running, and reachable from this machine?"))
    return found


def _no_index(store: StudyStore) -> str:
    """Returns why studies cannot be listed; empty if they can. This check rebuilds a deleted index."""
    try:
        store.counts()
    except (MedSAM2AtlasError, OSError, sqlite3.Error) as error:
        return f"The index cannot be used ({error})."
    return "" if store.index_file.exists() else f"{store.index_file} is missing."


def _no_scratch() -> str:
    try:
        file = scratch_file()
        try:
            file.write_bytes(b"ready")
        finally:
            file.unlink(missing_ok=True)
    except (OSError, MedSAM2AtlasError) as error:
        return f"Temporary files cannot be written ({error})."
    return ""
