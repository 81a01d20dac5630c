"""What a worker of a Dask cluster runs. Functions are sent by their names, so workers need the same version of this package.

The scheduler imports this module, too, because it reads the tasks that it passes on. Importing it therefore imports no library
that takes seconds or hundreds of megabytes, such as PyTorch.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed import get_worker

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import begin_settings, settings_are_of
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import is_local
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.outcomes import Outcome
from medsam2_atlas.batch.problems import is_passing, reason_of
from medsam2_atlas.batch.stored_arguments import unpacked

if TYPE_CHECKING:
    from medsam2_atlas.batch.session import Session

_KEPT_JOBS = 64
_process = uuid.uuid4().hex
"""Names this process, as a worker that was started again has another one, perhaps with the same address and number."""
_busy = threading.Lock()
_jobs: dict[str, Job] = {}
_session: Session | None = None
_loaded_job = ""


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


def with_threads(threads: int, packed: bytes) -> Any:
    """Calls a function with PyTorch's number of threads set, and returns its result.

    Args:
        threads: the number of threads.
        packed: the function and its arguments; see `stored_arguments`.
    """
    from medsam2_atlas.batch.session import limit_threads

    with _busy:
        limit_threads(threads)
        return unpacked(packed)


def receive_job(name: str, job: Job) -> None:
    """Keeps a job in this process, so that tasks only have its name.

    Args:
        name: its name; see `dask_engine`.
        job: the job.
    """
    while len(_jobs) >= _KEPT_JOBS:
        _jobs.pop(next(iter(_jobs)), None)
    _jobs[name] = job


def work(job: str, item: Item, prepared: str = "") -> Outcome:
    """Does all steps of an item on a worker.

    Args:
        job: name of the job.
        item: the item.
        prepared: name of its prepared CT if another worker has prepared it.
    """
    from medsam2_atlas.batch.work import work_on

    return _run(job, item, lambda session, _: work_on(item, session, prepared))


def prepare_only(job: str, item: Item) -> Outcome:
    """Reads and registers an item on a worker without a GPU.

    Args:
        job: name of the job.
        item: the item.
    """
    from medsam2_atlas.batch.work import hand_over

    return _run(job, item, lambda session, by: hand_over(item, session, by))


def _run(job: str, item: Item, steps: Callable[[Session, str], Outcome]) -> Outcome:
    worker = get_worker()
    with _busy:  # a worker with several threads shares its models
        try:
            session, missing = _loaded(job)
        except Exception as error:  # noqa: BLE001 - the client must get the reason
            passing = is_passing(error)
            return Outcome(item, reason=reason_of(error), passing=passing, unusable=not passing, worker=worker.address)
        if session is None:
            return Outcome(item, worker=worker.address, missing=missing)
        name = f"{worker.address} (process {os.getpid()})"
        name = name if worker.name in (None, worker.address) else f"{worker.name}, {name}"
        _set_threads(session.job.threads)
        outcome = steps(session, name)
        if outcome.unusable:
            _forget()
        return replace(outcome, worker=worker.address if outcome.unusable else name)


def _set_threads(threads: int) -> None:
    """Sets the threads of a batch again, as an evaluation or an atlas may have set others on this worker."""
    from medsam2_atlas.batch.session import limit_threads

    if threads:
        limit_threads(threads)


def _forget() -> None:
    """Drops the models, so that the next task loads and checks them again."""
    global _session, _loaded_job
    _session, _loaded_job = None, ""


def _loaded(name: str) -> tuple[Session | None, tuple[str, ...]]:
    """Returns the models of a job, loaded once in this process; None and what is missing if it has to be sent first."""
    global _session, _loaded_job
    if _session is not None and _loaded_job == name and settings_are_of(name):  # an evaluation may have used the worker, too
        return _session, ()
    job = _jobs.get(name)
    if job is None:
        return None, (f"{name}-{_process}",)
    if not job.parts.is_dir():
        raise InputError(job.parts, "is not on this machine.", "Let all machines of the cluster share the disk of the outputs.")
    from medsam2_atlas.batch.session import Session
    from medsam2_atlas.batch.shipping import placed

    here, missing = placed(job)
    if missing:
        return None, missing
    _forget()
    begin_settings(name)  # an earlier batch may have used the published method
    session = Session(here)
    session.check()
    _session, _loaded_job = session, name
    return session, ()
