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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, Security
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import check_address
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_worker import Announced

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
        gpus: number of workers with a GPU.
        cpus: number of workers that only register.
    """

    def __init__(self, cluster: Cluster, config: BatchConfig) -> None:
        """Connects to the scheduler.

        Args:
            cluster: the open cluster.
            config: limits of waiting.

        Raises:
            UnavailableError: the scheduler does not answer.
            InputError: a worker's traffic is not encrypted.
        """
        self._cluster, self._config = cluster, config
        self._tasks: dict[str, tuple[Call, Future]] = {}
        self._ended: queue.Queue[str] = queue.Queue()
        self._order = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._client: Client | None = None
        self.threads, self.gpus, self.cpus = 0, 0, 0
        self._looked = self._seen_workers = time.monotonic()
        self._connect(time.monotonic() + min(config.lost_after, 60))
        self._look()

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
        self._tasks[key] = call, future
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

    def run_on(self, worker: str, function: Callable[..., Any], *arguments: Any) -> bool:
        """Runs a function on one worker now; returns whether the worker was reached."""
        assert self._client is not None, "the tasks are open"
        try:
            self._client.run(function, *arguments, workers=[worker])
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s was lost: %s", worker, error)
            return False
        return True

    def forget(self) -> None:
        """Cancels the tasks that have not ended; `ended` will not return them."""
        tasks, self._tasks = self._tasks, {}
        if tasks and self._client is not None and self._client.status == "running":
            self._client.cancel([future for _, future in tasks.values()], force=True)

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
        call, future = self._tasks.pop(key, (None, None))
        if call is None or future is None:
            return []
        try:
            if future.status == "finished":
                value = future.result(timeout=_CONNECT_SECONDS)
                future.release()
                return [EndedCall(call, value)]
            if future.status == "error":
                return [self._failed(call, future)]
        except (FutureCancelledError, TimeoutError, OSError):  # its worker was lost before the result was fetched
            pass
        self._look_after()
        self.submit(call)
        return []

    def _failed(self, call: Call, future: Future) -> EndedCall:
        error = future.exception(timeout=_CONNECT_SECONDS)
        if isinstance(error, (ImportError, AttributeError)):
            raise InputError("worker", f"cannot run the task ({error}).", "Install the same medsam2_atlas on all machines.")
        return EndedCall(call, error=error, killed=isinstance(error, KilledWorker))

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
        lost, self._tasks = [call for call, _ in self._tasks.values()], {}
        for call in lost:
            self.submit(call)

    def _connect(self, until: float) -> None:
        cluster = self._cluster
        while True:
            try:
                client = Client(cluster.address, security=cluster.security, timeout=_CONNECT_SECONDS, set_as_default=False)
                client.register_plugin(Announced(package_version()))
                self._client = client
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
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        for address in workers:
            if address.startswith("tcp://"):
                check_address(address, encrypted=False)
        resources = [worker.get("resources", {}) for worker in workers.values()]
        self.threads = sum(int(worker.get("nthreads", 1)) for worker in workers.values())
        self.gpus, self.cpus = (sum(name in found for found in resources) for name in (GPU, CPU))
        self._cluster.keep_up({str(worker.get("name", "")) for worker in workers.values()})
        if workers or not self._tasks:
            self._seen_workers = self._looked
        elif self._looked - self._seen_workers > self._config.stalled_after:
            remedy = "Start workers, and run the same command again."
            raise UnavailableError(self._cluster.address, "has had no worker for too long.", remedy)
