"""Tasks on a Dask cluster that survive the loss of workers and of the scheduler.

The client keeps the list of tasks that have not ended. Dask repeats a task whose worker was lost. If the scheduler is lost, all
tasks that have not ended are submitted again to its successor. A task may therefore run twice, so it must be repeatable.
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, Security
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import check_member
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_worker import unfit

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

    @property
    def expected(self) -> Mapping[str, int]:
        """The number of workers that it starts, by the resource that they have; empty if others start them."""
        ...

    def keep_up(self, names: set[str]) -> None:
        """Replaces lost workers, if the cluster does not do that itself; `names`: those that are connected."""
        ...


@dataclass(frozen=True)
class Call:
    """A task: a function of a module, which is sent by its name, and its arguments.

    Attributes:
        name: the caller's name of the task.
        function: the function; it can be repeated.
        arguments: its arguments.
        resources: resources that a worker needs for it.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sent:
    """A task that has not ended.

    Attributes:
        call: the task.
        future: its future.
        refused: number of workers that were refused before it was sent.
    """

    call: Call
    future: Future
    refused: int


@dataclass(frozen=True)
class EndedCall:
    """A task that has ended.

    Attributes:
        call: the task.
        value: what its function returned.
        error: what its function raised; None if it returned.
        killed: whether workers were lost repeatedly while they ran it.
    """

    call: Call
    value: Any = None
    error: BaseException | None = None
    killed: bool = False


class DaskTasks:
    """The tasks of one client. One thread uses it.

    Attributes:
        threads: number of threads of all workers.
        gpus: number of workers with a GPU, also of those that are still to come.
        cpus: number of workers that only register, also of those that are still to come.
    """

    def __init__(self, cluster: Cluster, config: BatchConfig) -> None:
        """Connects to the scheduler.

        Args:
            cluster: the open cluster.
            config: limits of waiting.

        Raises:
            UnavailableError: the scheduler does not answer.
            InputError: a member's traffic is not encrypted, or no worker can be used.
        """
        self._cluster, self._config = cluster, config
        self._tasks: dict[str, _Sent] = {}
        self._checked: set[str] = set()
        self._refused: dict[str, str] = {}
        self._ended: queue.Queue[str] = queue.Queue()
        self._order = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._client: Client | None = None
        self.threads, self.gpus, self.cpus = 0, 0, 0
        self._looked = self._seen_workers = time.monotonic()
        try:
            self._connect(time.monotonic() + min(config.lost_after, 60))
            self._look()
        except BaseException:
            self.close()
            raise

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty if the scheduler has none."""
        if self._client is None or "dashboard" not in self._client.scheduler_info(n_workers=0).get("services", {}):
            return ""
        return str(self._client.dashboard_link)

    def submit(self, call: Call) -> None:
        """Sends a task to the cluster."""
        assert self._client is not None, "the tasks are open"
        key = f"{call.function.__name__}-{self._run}-{next(self._order)}"
        options = {"resources": dict(call.resources)} if call.resources else {}
        future = self._client.submit(call.function, *call.arguments, key=key, pure=False, **options)
        self._tasks[key] = _Sent(call, future, len(self._refused))
        future.add_done_callback(lambda _, key=key: self._ended.put(key))

    def ended(self, seconds: float) -> list[EndedCall]:
        """Returns the tasks that have ended since the last call, waiting for the first one for up to `seconds`.

        Raises:
            UnavailableError: the scheduler, or all workers, are away for too long.
            InputError: workers lack the package, or are not reached by encrypted traffic.
        """
        until, found = time.monotonic() + seconds, list[EndedCall]()
        while not found and time.monotonic() < until:
            self._look_after()
            for key in self._keys(min(seconds, _STEP_SECONDS)):
                found += self._end(key)
        return found

    def run_on(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Runs a function on one worker now.

        Raises:
            Exception: what the function raises, or the worker is not reached.
        """
        assert self._client is not None, "the tasks are open"
        self._client.run(function, *arguments, workers=[worker])

    def refuse(self, worker: str, reason: str) -> None:
        """Closes a worker that cannot run tasks; Dask gives its other tasks to the others.

        Raises:
            InputError: none is left, and no more are to come.
        """
        assert self._client is not None, "the tasks are open"
        if worker not in self._refused:
            log.warning("the worker %s is refused: %s", worker, reason)
        self._refused[worker] = reason
        try:
            left = self._client.scheduler_info(n_workers=-1).get("workers", {}).keys() - self._refused.keys()
            if left or len(self._refused) < sum(self._cluster.expected.values()):
                self._client.retire_workers([worker], close_workers=True)
                return
        except (OSError, TimeoutError) as error:  # the scheduler was lost, and its successor's workers are looked at again
            log.info("%s was not closed: %s", worker, error)
            return
        raise InputError(
            "cluster",
            f"has no worker that can be used. {worker}: {reason}",
            "Mend its workers, and run the same command again.",
        )

    def forget(self) -> None:
        """Cancels the tasks that have not ended; `ended` will not return them."""
        tasks, self._tasks = self._tasks, {}
        if tasks and self._client is not None and self._client.status == "running":
            self._client.cancel([sent.future for sent in tasks.values()], force=True)

    def close(self) -> None:
        """Cancels tasks that have not ended, and disconnects."""
        if self._client is None:
            return
        try:
            self.forget()
            self._client.close(timeout=5)
        except (OSError, TimeoutError, RuntimeError) as error:
            log.info("the client did not close properly: %s", error)
        self._client = None

    def _keys(self, seconds: float) -> list[str]:
        """Returns the keys of tasks that have ended, waiting for the first one for up to `seconds`."""
        keys = []
        try:
            keys.append(self._ended.get(timeout=seconds))
            while True:
                keys.append(self._ended.get_nowait())
        except queue.Empty:
            return keys

    def _end(self, key: str) -> list[EndedCall]:
        """Returns a task that has ended; none if it was lost and is sent again."""
        sent = self._tasks.pop(key, None)
        if sent is None:
            return []
        future = sent.future
        try:
            if future.status == "finished":
                value = future.result(timeout=_CONNECT_SECONDS)
                future.release()
                return [EndedCall(sent.call, value)]
            if future.status == "error":
                error = future.exception(timeout=_CONNECT_SECONDS)
                lacking = _import_error(error)
                if lacking is None:
                    return [EndedCall(sent.call, error=error, killed=isinstance(error, KilledWorker))]
                self._find_unfit(sent, lacking)
        except (FutureCancelledError, TimeoutError, OSError):  # its worker was lost before the result was fetched
            pass
        self._look_after()
        self.submit(sent.call)
        return []

    def _find_unfit(self, sent: _Sent, error: BaseException) -> None:
        """Refuses the worker that cannot import a task.

        Raises:
            InputError: it is not a worker, but the scheduler or the task.
        """
        self._checked.clear()
        self._look()
        if len(self._refused) == sent.refused:
            raise InputError(
                "cluster", f"cannot run the task ({error}).", "Install the same medsam2_atlas on all machines."
            ) from error

    def _look_after(self) -> None:
        """Reconnects if the scheduler was lost, and looks at the workers from time to time."""
        if self._client is None or self._client.status != "running":
            self._reconnect()
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            try:
                self._look()
            except (OSError, TimeoutError) as error:  # the scheduler was just lost; the next look reconnects
                log.info("the scheduler does not answer: %s", error)

    def _reconnect(self) -> None:
        log.warning("the connection to the scheduler %s is lost; waiting for it to come back", self._cluster.address)
        if self._client is not None:
            self._client.close(timeout=1)
            self._client = None
        self._connect(time.monotonic() + self._config.lost_after)
        lost, self._tasks = [sent.call for sent in self._tasks.values()], {}
        for call in lost:
            self.submit(call)

    def _connect(self, until: float) -> None:
        cluster = self._cluster
        while True:
            try:
                security = cluster.security
                self._client = Client(cluster.address, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
                return
            except (OSError, TimeoutError) as error:
                if time.monotonic() > until:
                    remedy = "Start it, and run the same command again."
                    raise UnavailableError(cluster.address, f"does not answer ({error}).", remedy) from error
                time.sleep(1)

    def _look(self) -> None:
        """Looks at the workers: their number, their resources, and whether their traffic is encrypted."""
        assert self._client is not None, "the tasks are open"
        self._looked = time.monotonic()
        info = self._client.scheduler_info(n_workers=-1)
        workers = info.get("workers", {})
        for address in (info["address"], *workers):
            check_member(address)
        self._check([*workers])
        resources = [worker.get("resources", {}) for worker in workers.values()]
        self.threads = sum(int(worker.get("nthreads", 1)) for worker in workers.values())
        self.gpus, self.cpus = (
            max(sum(name in found for found in resources), self._cluster.expected.get(name, 0)) for name in (GPU, CPU)
        )
        self._cluster.keep_up({str(worker.get("name", "")) for worker in workers.values()})
        if workers or not self._tasks:
            self._seen_workers = self._looked
        elif self._looked - self._seen_workers > self._config.stalled_after:
            remedy = "Start workers, and run the same command again."
            raise UnavailableError(self._cluster.address, "has had no worker for too long.", remedy)

    def _check(self, workers: Sequence[str]) -> None:
        """Refuses workers that have joined since the last look and cannot be used."""
        assert self._client is not None, "the tasks are open"
        new = [address for address in workers if address not in self._checked]
        answers = self._client.run(unfit, package_version(), workers=new, on_error="return") if new else {}
        self._checked = {*workers}
        for address, answer in answers.items():
            if isinstance(answer, OSError):  # it was just lost, or is looked at again
                self._checked.discard(address)
            elif isinstance(answer, Exception):
                self.refuse(address, f"it lacks this version of medsam2_atlas ({answer}).")
            elif answer:
                self.refuse(address, answer)


def _import_error(error: BaseException | None) -> BaseException | None:
    """Returns the cause of an error if a member could not import what it was sent."""
    while error is not None and not isinstance(error, (ImportError, AttributeError)):
        error = error.__cause__
    return error
