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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_calls import Call, Cluster, EndedCall
from medsam2_atlas.batch.dask_members import Members

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_CONNECT_SECONDS = 10
_STEP_SECONDS = 0.2


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


class DaskTasks:
    """The tasks of one client. One thread uses it."""

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
        self._members = Members(cluster, config)
        self._ended: queue.Queue[str] = queue.Queue()
        self._order = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._client: Client | None = None
        try:
            self._connect(time.monotonic() + min(config.lost_after, 60))
            self._look()
        except BaseException:
            self.close()
            raise

    @property
    def threads(self) -> int:
        """The number of threads of all workers."""
        return self._members.threads

    @property
    def gpus(self) -> int:
        """The number of workers with a GPU, also of those that are still to come."""
        return self._members.gpus

    @property
    def cpus(self) -> int:
        """The number of workers that only register, also of those that are still to come."""
        return self._members.cpus

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
        self._tasks[key] = _Sent(call, future, len(self._members.refused))
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
        self._members.refuse(self._client, worker, reason)

    def misses(self, resource: str) -> bool:
        """Returns whether tasks need a resource that no worker has had for a while, and none is to have.

        Raises:
            UnavailableError: there has been none for too long.
        """
        waiting = any(resource in sent.call.resources for sent in self._tasks.values())
        return waiting and self._members.misses(resource)

    def recall(self, resource: str) -> list[Call]:
        """Cancels and returns the tasks that need a resource."""
        assert self._client is not None, "the tasks are open"
        waiting = {key: sent for key, sent in self._tasks.items() if resource in sent.call.resources}
        self._client.cancel([sent.future for sent in waiting.values()], force=True)
        return [self._tasks.pop(key).call for key in waiting]

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
        self._members.check_again()
        self._look()
        if len(self._members.refused) == sent.refused:
            raise InputError(
                "cluster", f"cannot run the task ({error}).", "Install the same medsam2_atlas on all machines."
            ) from error

    def _look_after(self) -> None:
        """Reconnects if the scheduler was lost, and looks at the workers from time to time."""
        if self._client is None or self._client.status != "running":
            self._reconnect()
        if self._members.age > _LOOK_SECONDS:
            try:
                self._look()
            except (OSError, TimeoutError) as error:  # the scheduler was just lost; the next look reconnects
                log.info("the scheduler does not answer: %s", error)

    def _look(self) -> None:
        assert self._client is not None, "the tasks are open"
        self._members.look(self._client, waited_for=bool(self._tasks))

    def _reconnect(self) -> None:
        log.warning("the connection to the scheduler %s is lost; waiting for it to come back", self._cluster.address)
        if self._client is not None:
            self._client.close(timeout=1)
            self._client = None
        self._connect(time.monotonic() + self._config.lost_after)
        self._members.returned()
        lost, self._tasks = [sent.call for sent in self._tasks.values()], {}
        for call in lost:
            self.submit(call)

    def _connect(self, until: float) -> None:
        cluster = self._cluster
        while True:
            try:
                security = cluster.security
                seconds = min(_CONNECT_SECONDS, max(1.0, until - time.monotonic()))
                self._client = Client(cluster.address, security=security, timeout=seconds, set_as_default=False)
                return
            except (OSError, TimeoutError) as error:
                if time.monotonic() > until:
                    remedy = "Start it, and run the same command again."
                    raise UnavailableError(cluster.address, f"does not answer ({error}).", remedy) from error
                time.sleep(1)


def _import_error(error: BaseException | None) -> BaseException | None:
    """Returns the cause of an error if a member could not import what it was sent."""
    while error is not None and not isinstance(error, (ImportError, AttributeError)):
        error = error.__cause__
    return error
