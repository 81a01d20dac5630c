"""What a worker of a Dask cluster runs. Functions are sent by their names, so workers need the same version of this package."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from medsam2_atlas.base.overlay import choose_settings, use_overlay
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.problems import is_passing, reason_of
from medsam2_atlas.batch.session import Session, limit_threads
from medsam2_atlas.batch.shipping import placed
from medsam2_atlas.batch.work import Outcome, register, work_on

_busy = threading.Lock()
_session: Session | None = None
_sent: Job | None = None


class Announced(WorkerPlugin):
    """Checks the version of each worker that joins, before it gets a case."""

    name = "medsam2_atlas"

    def __init__(self, version: str) -> None:
        """Keeps the client's version."""
        self.version = version

    def setup(self, worker: object) -> None:
        """Refuses a worker with another version.

        Raises:
            RuntimeError: the versions differ.
        """
        if package_version() != self.version:
            raise RuntimeError(f"{worker} has medsam2_atlas {package_version()}, the client {self.version}")


def with_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function with PyTorch's number of threads set, and returns its result."""
    with _busy:
        limit_threads(threads)
        return function(*arguments)


def work(job: Job, item: Item) -> Outcome:
    """Does all steps of an item on a worker."""
    return _run(job, item, only_register=False)


def prepare_only(job: Job, item: Item) -> Outcome:
    """Registers an item on a worker without a GPU."""
    return _run(job, item, only_register=True)


def _run(job: Job, item: Item, *, only_register: bool) -> Outcome:
    address = get_worker().address
    with _busy:  # a worker with several threads shares its models
        try:
            session, missing = _loaded(job)
        except Exception as error:  # noqa: BLE001 - the client must get the reason
            fatal = not is_passing(error)
            return Outcome(item, reason=reason_of(error), passing=not fatal, fatal=fatal, worker=address)
        if session is None:
            return Outcome(item, worker=address, missing=missing)
        outcome = (register if only_register else work_on)(item, session)
        return replace(outcome, worker=f"{address} (process {os.getpid()})")


def _loaded(job: Job) -> tuple[Session | None, tuple[str, ...]]:
    """Returns the models of a job, loaded once in this process; None and the missing files if some have to be sent first."""
    global _session, _sent
    if _session is not None and _sent == job:
        return _session, ()
    here, missing = placed(job)
    if missing:
        return None, missing
    _session = _sent = None
    use_overlay(None)  # an earlier batch may have used the published method
    choose_settings("registration.yaml", {})
    session = Session(here)
    session.check()
    _session, _sent = session, job
    return session, ()
