"""Applies functions to many arguments on a Dask cluster, for evaluations and for building atlases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam2_atlas.base.mapping import KilledError
from medsam2_atlas.batch.clusters import Wanted, opened, print_cluster
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.batch.dask_calls import GPU, Call
from medsam2_atlas.batch.dask_tasks import DaskTasks
from medsam2_atlas.batch.dask_worker import with_threads
from medsam2_atlas.batch.stored_arguments import ArgumentStore

_WAIT_SECONDS = 0.5


class ClusterMap:
    """Applies functions on the workers of a cluster.

    Attributes:
        threads: threads of PyTorch in each worker.
    """

    def __init__(self, tasks: DaskTasks, threads: int, network: bool, store: ArgumentStore) -> None:
        """Keeps the open tasks.

        Args:
            tasks: the connection to the cluster.
            store: stores large arguments for the workers.
            threads: threads of PyTorch in each worker.
            network: whether the functions run networks, so that workers with a GPU run them if there are any.
        """
        self._tasks, self.threads, self._network, self._store = tasks, threads, network, store
        self._calls = 0

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yields the number of each argument and the result, in the order in which they end. A further call ends this one.

        Raises:
            Exception: what the function raises.
            InputError: no worker can be used, or a member's traffic is not encrypted.
            UnavailableError: the scheduler, or all workers, are away for too long.
        """
        self._calls += 1
        own = self._calls
        self._end()
        try:
            yield from self._results(function, arguments, own)
        finally:  # the caller may give up early, and keep this generator alive until after its next call
            if own == self._calls:
                self._end()

    def _end(self) -> None:
        self._tasks.forget()
        self._store.clear()

    def _results(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], own: int
    ) -> Iterator[tuple[int, Any]]:
        waiting, running = iter(range(len(arguments))), 0
        while own == self._calls:
            while running < batch_config().window * max(1, self._tasks.threads):
                number = next(waiting, None)
                if number is None:
                    break
                resources = {GPU: 1} if self._network and self._tasks.gpus else {}
                call = (self.threads, self._store.packed(function, arguments[number]))
                self._tasks.submit(Call(str(number), with_threads, call, resources))
                running += 1
            if not running:
                return
            self._tasks.misses(GPU)
            for ended in self._tasks.ended(_WAIT_SECONDS):
                running -= 1
                if ended.error is not None and not ended.killed:
                    raise ended.error
                yield int(ended.call.name), _killed() if ended.killed else ended.value


def _killed() -> KilledError:
    remedy = "Give the workers more memory."
    return KilledError("worker", "was killed, and so were others that ran the same; perhaps they lack memory.", remedy)


@contextmanager
def cluster_map(
    text: str, wanted: Wanted, *, tls: Path | None = None, work: Path, network: bool = False
) -> Iterator[ClusterMap]:
    """Opens a cluster, and yields a function that works on it. Its workers must see the same disk as this machine.

    Args:
        text: `local`, the address of a scheduler, or a YAML file.
        wanted: the workers of `local`.
        tls: folder of certificates for an address.
        work: folder on the shared disk, for large arguments, certificates and logs of jobs.
        network: whether the functions run networks.

    Raises:
        InputError: the text names no cluster, or its traffic would not be encrypted.
        UnavailableError: the scheduler does not answer.
    """
    with opened(text, wanted, tls, work) as cluster:
        tasks, store = DaskTasks(cluster, batch_config()), ArgumentStore(work)
        print_cluster(cluster.address, tasks.dashboard)
        try:
            yield ClusterMap(tasks, cluster.threads, network, store)
        finally:
            tasks.close()
            store.close()
