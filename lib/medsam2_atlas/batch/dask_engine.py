"""Runs the cases of a batch on a Dask cluster. A case may run twice; only its first outcome counts (`conduct`)."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from pathlib import Path

from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_tasks import CPU, GPU, Call, Cluster, DaskTasks, EndedCall
from medsam2_atlas.batch.dask_worker import prepare_only, work
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.shipping import pieces, receive, with_files
from medsam2_atlas.batch.work import Outcome

log = logging.getLogger(__name__)


class DaskEngine:
    """Runs cases on a cluster. Where it has both kinds of workers, some register and others, with a GPU, run networks."""

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
        self._config, self._session = config, session
        job = with_files(session)
        self._job = replace(job, threads=job.threads or cluster.threads)
        self._tasks = DaskTasks(cluster, config)

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty if unknown."""
        return self._tasks.dashboard

    @property
    def window(self) -> int:
        """The number of cases in the cluster: a few for each thread, so that the scheduler never holds all of them."""
        return self._config.window * max(1, self._tasks.threads)

    def submit(self, item: Item) -> None:
        """Sends a case to the cluster."""
        split = self._session.registers and self._tasks.gpus > 0 and self._tasks.cpus > 0
        self._send(item, registered=not split)

    def completed(self, seconds: float) -> list[Outcome]:
        """Returns the outcomes since the last call.

        Raises:
            UnavailableError: the scheduler, or all workers, are away for too long.
            InputError: workers lack the package, or are not reached by encrypted traffic.
        """
        return [outcome for ended in self._tasks.ended(seconds) for outcome in self._take(ended)]

    def close(self) -> None:
        """Cancels cases without an outcome and disconnects."""
        self._tasks.close()

    def _send(self, item: Item, *, registered: bool) -> None:
        networks = self._tasks.gpus > 0 and self._session.segmenter.uses_network
        resources = {GPU if registered else CPU: 1} if networks else {}
        self._tasks.submit(Call(item.id, work if registered else prepare_only, (self._job, item), resources))

    def _take(self, ended: EndedCall) -> list[Outcome]:
        """Returns the outcome of a task; none if its case goes on."""
        item: Item = ended.call.arguments[1]
        registered = ended.call.function is work
        if ended.killed:
            reason = "the workers that ran it were killed; they may have too little memory."
            return [Outcome(item, reason=reason, passing=True)]
        if ended.error is not None:
            return [Outcome(item, reason=f"{type(ended.error).__name__}: {ended.error}"[:1000], passing=True)]
        outcome: Outcome = ended.value
        if outcome.missing:
            self._ship(outcome)
            self._send(item, registered=registered)
            return []
        if not registered and not outcome.reason:
            self._send(item, registered=True)
            return []
        return [outcome]

    def _ship(self, outcome: Outcome) -> None:
        """Sends missing files to a worker, piece by piece; if the worker is lost, another one asks again."""
        paths = {file.sha256: Path(file.path) for file in self._job.files}
        sender = uuid.uuid4().hex
        for digest in dict.fromkeys(outcome.missing):
            log.warning("sending %s to %s", paths[digest].name, outcome.worker)
            for offset, piece, last in pieces(paths[digest]):
                if not self._tasks.run_on(outcome.worker, receive, digest, offset, piece, last, sender):
                    return
