"""What a worker of a Dask cluster runs. Functions are sent by their names, so workers need the same version of this package."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distributed import get_worker

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import choose_settings, use_overlay
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import is_local
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.problems import is_passing, reason_of
from medsam2_atlas.batch.session import Session, limit_threads
from medsam2_atlas.batch.shipping import placed
from medsam2_atlas.batch.work import Outcome, register, work_on

_busy = threading.Lock()
_session: Session | None = None
_sent: Job | None = None


def unfit(version: str, dask_worker: Any) -> str:
    """Returns why a worker may not get tasks; empty if it may.

    Args:
        version: the client's version of this package.
        dask_worker: the worker on which this runs; Dask gives it.
    """
    if package_version() != version:
        return f"it has medsam2_atlas {package_version()}, and the client {version}."
    if not all(text.startswith("tls://") or is_local(text) for text in (one.listen_address for one in dask_worker.listeners)):
        return "it listens to the network without certificates; start it with --host 127.0.0.1."
    return ""


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
            passing = is_passing(error)
            return Outcome(item, reason=reason_of(error), passing=passing, unusable=not passing, worker=address)
        if session is None:
            return Outcome(item, worker=address, missing=missing)
        outcome = (register if only_register else work_on)(item, session)
        return replace(outcome, worker=f"{address} (process {os.getpid()})")


def _loaded(job: Job) -> tuple[Session | None, tuple[str, ...]]:
    """Returns the models of a job, loaded once in this process; None and the missing files if some have to be sent first."""
    global _session, _sent
    if _session is not None and _sent == job:
        return _session, ()
    if not job.parts.is_dir():
        raise InputError(job.parts, "is not on this machine.", "Let all machines of the cluster share the disk of the outputs.")
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
