"""Runs cases on a Dask cluster, and survives the loss of workers and of the scheduler.

The client keeps the list of cases without an outcome. Dask repeats a case whose worker was lost. If the scheduler is lost, all
cases without an outcome are submitted again to its successor. A case may therefore run twice; only its first outcome counts
(`conduct`).
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from distributed import Client, Future, Security
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import check_address
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_worker import Announced, prepare_only, work
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.shipping import pieces, receive, with_files
from medsam2_atlas.batch.work import Outcome

log = logging.getLogger(__name__)

GPU, CPU = "GPU", "CPU"
"""Names of the resources of workers that run networks, and of workers that only register."""
_LOOK_SECONDS = 2.0
_CONNECT_SECONDS = 10
_STEP_SECONDS = 0.2


class Cluster(Protocol):
    """An open cluster."""

    @property
    def address(self) -> str:
        """The address of its scheduler."""
        ...

    @property
    def security(self) -> Security | None:
        """The certificates; None for a cluster on the loopback interface."""
        ...

    @property
    def threads(self) -> int:
        """The threads of PyTorch in each worker."""
        ...

    def keep_up(self, names: set[str]) -> None:
        """Replaces lost workers, if the cluster does not do that itself; `names`: those that are connected."""
        ...


@dataclass
class _Task:
    """A task of the cluster: an item, and whether its registration is done."""

    item: Item
    registered: bool
    future: Future = field(repr=False)


class DaskEngine:
    """Runs cases on a cluster."""

    def __init__(self, cluster: Cluster, session: Session, config: BatchConfig) -> None:
        """Connects to the scheduler.

        Args:
            cluster: the open cluster.
            session: job and models of this process.
            config: limits of waiting.

        Raises:
            UnavailableError: the scheduler does not answer.
            InputError: a worker's traffic is not encrypted.
        """
        self._cluster, self._config, self._session = cluster, config, session
        self._job = with_files(session)
        self._job = replace(self._job, threads=self._job.threads or cluster.threads)
        self._tasks: dict[str, _Task] = {}
        self._ended: queue.Queue[str] = queue.Queue()
        self._order = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._client: Client | None = None
        self._threads, self._gpus, self._cpus = 0, 0, 0
        self._looked = float("-inf")
        self._seen_workers = time.monotonic()
        self._connect(time.monotonic() + min(config.lost_after, 60))
        self._look()

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty if unknown."""
        return str(self._client.dashboard_link or "") if self._client else ""

    @property
    def window(self) -> int:
        """The number of cases in the cluster: a few for each thread, so that the scheduler never holds all of them."""
        return self._config.window * max(1, self._threads)

    def submit(self, item: Item) -> None:
        """Sends a case to the cluster."""
        split = self._session.registers and self._gpus > 0 and self._cpus > 0
        self._send(item, registered=not split)

    def completed(self, seconds: float) -> list[Outcome]:
        """Returns the outcomes since the last call.

        Raises:
            UnavailableError: the scheduler, or all workers, are away for too long.
            InputError: workers lack the package, or are not reached by encrypted traffic.
        """
        until, found = time.monotonic() + seconds, list[Outcome]()
        while not found and time.monotonic() < until:
            self._look_after()
            for key in self._keys(min(seconds, _STEP_SECONDS)):
                found += self._end(key)
        return found

    def _keys(self, seconds: float) -> list[str]:
        """Returns the keys of tasks that have ended, waiting for the first one for up to `seconds`."""
        keys = []
        try:
            keys.append(self._ended.get(timeout=seconds))
            while True:
                keys.append(self._ended.get_nowait())
        except queue.Empty:
            return keys

    def close(self) -> None:
        """Cancels cases without an outcome and disconnects."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            if client.status == "running" and self._tasks:
                client.cancel([task.future for task in self._tasks.values()], force=True)
            client.close(timeout=5)
        except (OSError, TimeoutError, RuntimeError) as error:
            log.info("the client did not close properly: %s", error)

    def _send(self, item: Item, *, registered: bool) -> None:
        client = self._client
        assert client is not None, "the engine is open"
        key = f"case-{self._run}-{next(self._order)}"
        function: Callable[..., Outcome] = work if registered else prepare_only
        options: dict[str, Any] = {}
        if self._gpus and self._session.segmenter.uses_network:
            options["resources"] = {GPU if registered else CPU: 1}
        future = client.submit(function, self._job, item, key=key, pure=False, **options)
        self._tasks[key] = _Task(item, registered, future)
        future.add_done_callback(lambda _, key=key: self._ended.put(key))

    def _end(self, key: str) -> list[Outcome]:
        """Returns the outcome of a task that has ended; none if the case goes on."""
        task = self._tasks.pop(key, None)
        if task is None:
            return []
        status = task.future.status
        if status == "finished":
            try:
                outcome: Outcome = task.future.result(timeout=_CONNECT_SECONDS)
            except (FutureCancelledError, TimeoutError, OSError):  # its worker was lost before the result was fetched
                self._again(task)
                return []
            return self._take(task, outcome)
        if status == "error":
            return [self._failed(task)]
        self._again(task)
        return []

    def _take(self, task: _Task, outcome: Outcome) -> list[Outcome]:
        task.future.release()
        if outcome.missing:
            self._ship(outcome)
            self._send(task.item, registered=task.registered)
            return []
        if not task.registered and not outcome.reason:
            self._send(task.item, registered=True)
            return []
        return [outcome]

    def _failed(self, task: _Task) -> Outcome:
        error = task.future.exception(timeout=_CONNECT_SECONDS)
        if isinstance(error, KilledWorker):
            reason = "the workers that ran it were killed; they may have too little memory."
            return Outcome(task.item, reason=reason, passing=True)
        if isinstance(error, (ImportError, AttributeError)):
            raise InputError("worker", f"cannot run the batch ({error}).", "Install the same medsam2_atlas on all machines.")
        return Outcome(task.item, reason=f"{type(error).__name__}: {error}"[:1000], passing=True)

    def _again(self, task: _Task) -> None:
        """Sends a case again whose task was lost with a scheduler."""
        self._look_after()
        self._send(task.item, registered=task.registered)

    def _ship(self, outcome: Outcome) -> None:
        """Sends missing files to a worker, piece by piece."""
        assert self._client is not None, "the engine is open"
        paths = {file.sha256: Path(file.path) for file in self._job.files}
        sender = uuid.uuid4().hex
        for digest in dict.fromkeys(outcome.missing):
            log.warning("sending %s to %s", paths[digest].name, outcome.worker)
            for offset, piece, last in pieces(paths[digest]):
                try:
                    self._client.run(receive, digest, offset, piece, last, sender, workers=[outcome.worker])
                except (OSError, ValueError, KeyError) as error:  # the worker was lost; another one asks again
                    log.warning("%s was lost while it got files: %s", outcome.worker, error)
                    return

    def _look_after(self) -> None:
        """Reconnects if the scheduler was lost, and looks at the workers from time to time."""
        if self._client is None or self._client.status != "running":
            self._reconnect()
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()

    def _reconnect(self) -> None:
        log.warning("the connection to the scheduler %s is lost; waiting for it to come back", self._cluster.address)
        if self._client is not None:
            self._client.close(timeout=1)
            self._client = None
        self._connect(time.monotonic() + self._config.lost_after)
        lost, self._tasks = list(self._tasks.values()), {}
        for task in lost:
            self._send(task.item, registered=task.registered)

    def _connect(self, until: float) -> None:
        while True:
            try:
                client = Client(
                    self._cluster.address, security=self._cluster.security, timeout=_CONNECT_SECONDS, set_as_default=False
                )
                client.register_plugin(Announced(package_version()))
                self._client = client
                return
            except (OSError, TimeoutError) as error:
                if time.monotonic() > until:
                    remedy = "Start it, and run the same command again."
                    raise UnavailableError(self._cluster.address, f"does not answer ({error}).", remedy) from error
                time.sleep(1)

    def _look(self) -> None:
        """Looks at the workers: their number, their resources, and whether their traffic is encrypted."""
        assert self._client is not None, "the engine is open"
        self._looked = time.monotonic()
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        for address in workers:
            if address.startswith("tcp://"):
                check_address(address, encrypted=False)
        resources = [worker.get("resources", {}) for worker in workers.values()]
        self._threads = sum(int(worker.get("nthreads", 1)) for worker in workers.values())
        self._gpus, self._cpus = (sum(name in found for found in resources) for name in (GPU, CPU))
        self._cluster.keep_up({str(worker.get("name", "")) for worker in workers.values()})
        if workers or not self._tasks:
            self._seen_workers = self._looked
        elif self._looked - self._seen_workers > self._config.stalled_after:
            remedy = "Start workers, and run the same command again."
            raise UnavailableError(self._cluster.address, "has had no worker for too long.", remedy)
