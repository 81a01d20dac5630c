"""The members of a Dask cluster, as its client sees them: their number, their resources, and which of them may not be used."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from distributed import Client

from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.batch.addresses import check_member
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_calls import CPU, GPU, Cluster
from medsam2_atlas.batch.dask_worker import unfit

log = logging.getLogger(__name__)

_MISSED_SECONDS = 60.0
"""Time without a worker that registers after which the others do that, too; without a GPU, a warning says that cases wait."""


class Members:
    """Scheduler and workers of a cluster.

    Attributes:
        threads: number of threads of all workers.
        gpus: number of workers with a GPU, also of those that are still to come; at least 1 once there was one.
        cpus: number of workers that only register, also of those that are still to come or were just lost.
        refused: why workers may not be used, by address.
    """

    def __init__(self, cluster: Cluster, config: BatchConfig) -> None:
        """Looks at nothing yet.

        Args:
            cluster: the open cluster.
            config: limits of waiting.
        """
        self.threads, self.gpus, self.cpus = 0, 0, 0
        self.refused: dict[str, str] = {}
        self._cluster, self._config = cluster, config
        self._checked: set[str] = set()
        self._seen: dict[str, float] = {}
        self._reported: set[str] = set()
        self._looked = self._seen_workers = self._began = time.monotonic()

    @property
    def age(self) -> float:
        """The time since the last look, in s."""
        return time.monotonic() - self._looked

    def look(self, client: Client, *, waited_for: bool) -> None:
        """Looks at the workers: their number, their resources, and whether their traffic is encrypted.

        Args:
            client: the connection to the scheduler.
            waited_for: whether tasks wait for workers.

        Raises:
            UnavailableError: there has been no worker for too long.
            InputError: a member's traffic is not encrypted, or no worker can be used.
            OSError, TimeoutError: the scheduler does not answer.
        """
        self._looked = time.monotonic()
        info = client.scheduler_info(n_workers=-1)
        workers = info.get("workers", {})
        for address in (info["address"], *workers):
            check_member(address)
        self._check(client, [*workers])
        resources = [worker.get("resources", {}) for worker in workers.values()]
        self.threads = sum(int(worker.get("nthreads", 1)) for worker in workers.values())
        here = {name: sum(name in found for found in resources) for name in (GPU, CPU)}
        for name in (name for name, number in here.items() if number):
            self._seen[name] = self._looked
            self._reported.discard(name)
        # A worker that was just lost may come back. Meanwhile, networks must not run on workers without a GPU.
        kept = {GPU: GPU in self._seen, CPU: CPU in self._seen and not self._absent(CPU) > _MISSED_SECONDS}
        self.gpus, self.cpus = (max(here[name], self._cluster.expected.get(name, 0), kept[name]) for name in (GPU, CPU))
        self._cluster.keep_up({str(worker.get("name", "")) for worker in workers.values()})
        if workers or not waited_for:
            self._seen_workers = self._looked
        elif self._looked - self._seen_workers > self._config.stalled_after:
            raise self._stalled("worker")

    def returned(self) -> None:
        """Notes that the scheduler or its successor answers again: while it was away, no worker could be seen."""
        self._began = self._seen_workers = now = time.monotonic()
        self._seen = dict.fromkeys(self._seen, now)

    def check_again(self) -> None:
        """Makes the next look check all workers again."""
        self._checked.clear()

    def misses(self, resource: str) -> bool:
        """Returns whether no worker has had a resource for a while, and none is still to come.

        Raises:
            UnavailableError: there has been none for too long, although one may be still to come.
        """
        absent, known = self._absent(resource), resource in self._seen
        if absent > self._config.stalled_after:
            raise self._stalled(f"worker with the resource {resource}")
        if absent > _MISSED_SECONDS and resource not in self._reported:
            self._reported.add(resource)
            log.warning("the cluster has no worker with the resource %s %s", resource, "any more" if known else "yet")
        return absent > _MISSED_SECONDS and not self._cluster.expected.get(resource, 0)

    def refuse(self, client: Client, worker: str, reason: str) -> None:
        """Closes a worker that cannot run tasks; Dask gives its other tasks to the others.

        Args:
            client: the connection to the scheduler.
            worker: its address.
            reason: why.

        Raises:
            InputError: none is left, and no more are to come.
        """
        if worker not in self.refused:
            log.warning("the worker %s is refused: %s", worker, reason)
        self.refused[worker] = reason
        try:
            left = client.scheduler_info(n_workers=-1).get("workers", {}).keys() - self.refused.keys()
            if left or len(self.refused) < sum(self._cluster.expected.values()):
                client.retire_workers([worker], close_workers=True)
                return
        except (OSError, TimeoutError) as error:  # the scheduler was lost, and its successor's workers are looked at again
            log.info("%s was not closed: %s", worker, error)
            return
        raise InputError(
            "cluster",
            f"has no worker that can be used. {worker}: {reason}",
            "Repair the workers, and run the same command again.",
        )

    def _absent(self, resource: str) -> float:
        """Returns the time between the last look and the last look at a worker with a resource, or the start, in s."""
        return self._looked - self._seen.get(resource, self._began)

    def _check(self, client: Client, workers: Sequence[str]) -> None:
        """Refuses workers that have joined since the last look and cannot be used."""
        new = [address for address in workers if address not in self._checked]
        answers: dict[str, Any] = client.run(unfit, package_version(), workers=new, on_error="return") if new else {}
        self._checked = {*workers}
        for address, answer in answers.items():
            if isinstance(answer, OSError):  # it was just lost, or is looked at again
                self._checked.discard(address)
            elif isinstance(answer, Exception):
                self.refuse(client, address, f"it lacks this version of medsam2_atlas ({answer}).")
            elif answer:
                self.refuse(client, address, answer)

    def _stalled(self, what: str) -> UnavailableError:
        remedy = "Start workers, and run the same command again."
        return UnavailableError(self._cluster.address, f"has had no {what} for too long.", remedy)
