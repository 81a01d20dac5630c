"""Runs the cases of a batch on a Dask cluster. A case may run twice; only its first outcome counts (`conduct`)."""

from __future__ import annotations

import hashlib
import itertools
import logging
import uuid
from dataclasses import replace
from pathlib import Path

from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.dask_calls import CPU, GPU, Call, Cluster, EndedCall
from medsam2_atlas.batch.dask_tasks import DaskTasks
from medsam2_atlas.batch.dask_worker import prepare_only, receive_job, work
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.outcomes import Outcome
from medsam2_atlas.batch.prepared import drop_all
from medsam2_atlas.batch.problems import is_disk_full, reason_of
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.shipping import pieces, receive, with_files

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
            InputError: a member's traffic is not encrypted, or no worker can be used.
        """
        self._config, self._session = config, session
        job = with_files(session)
        self._job = replace(job, threads=job.threads or cluster.threads)
        self._name = hashlib.sha256(repr(self._job).encode(errors="surrogateescape")).hexdigest()
        self._tasks = DaskTasks(cluster, config)
        self._order = itertools.count()
        self._sent: dict[str, int] = {}
        self._shipped: dict[tuple[str, str], int] = {}
        self._split: set[str] = set()

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
        self._send(item, first=True)

    def completed(self, seconds: float) -> list[Outcome]:
        """Returns the outcomes since the last call.

        Raises:
            UnavailableError: the scheduler, or all workers that can do a case, are away for too long.
            InputError: a member's traffic is not encrypted, or no worker can be used.
        """
        found = [outcome for ended in self._tasks.ended(seconds) for outcome in self._take(ended)]
        self._tasks.misses(GPU)
        if self._tasks.misses(CPU):  # without workers that register, those with a GPU do whole cases
            for call in self._tasks.recall(CPU):
                self._send(*call.arguments[1:], first=True)
        return found

    def close(self) -> None:
        """Cancels cases without an outcome and disconnects."""
        self._tasks.close()

    def _send(self, item: Item, prepared: str = "", *, first: bool) -> None:
        """Sends a case.

        Args:
            item: its item.
            prepared: name of its prepared CT, if there is one.
            first: whether it may begin on a worker that only registers.
        """
        networks = self._tasks.gpus > 0 and self._session.segmenter.uses_network
        split = first and networks and self._session.registers and self._tasks.cpus > 0
        self._sent[item.id] = next(self._order)
        if split:
            self._split.add(item.id)
            self._tasks.submit(Call(item.id, prepare_only, (self._name, item), {CPU: 1}))
        else:
            self._tasks.submit(Call(item.id, work, (self._name, item, prepared), {GPU: 1} if networks else {}))

    def _take(self, ended: EndedCall) -> list[Outcome]:
        """Returns the outcome of a task; none if its case goes on."""
        found = self._outcome(ended)
        for item in (outcome.item for outcome in found if outcome.item.id in self._split):
            self._split.discard(item.id)
            drop_all(item, self._job.parts)
        return found

    def _outcome(self, ended: EndedCall) -> list[Outcome]:
        _, item, *rest = ended.call.arguments
        first, prepared = ended.call.function is prepare_only, "".join(rest)
        if ended.killed or ended.error is not None:
            reason = "the workers that ran it were killed; they may have too little memory."
            if not ended.killed:
                reason = f"{type(ended.error).__name__}: {ended.error}"[:1000]
            return [Outcome(item, reason=reason, passing=True)]
        outcome: Outcome = ended.value
        if outcome.fatal:
            return [outcome]
        if outcome.unusable:
            self._tasks.refuse(outcome.worker, outcome.reason)
        elif outcome.missing:
            failed = self._ship(outcome)
            if failed is not None:
                return [failed]
        elif not first or outcome.reason:
            self._sent.pop(item.id, None)
            return [outcome]
        else:
            first, prepared = False, outcome.prepared
        self._send(item, prepared, first=first)
        return []

    def _ship(self, outcome: Outcome) -> Outcome | None:
        """Sends the job and missing files to a worker, files piece by piece; returns an outcome if that failed.

        All cases of a worker ask for the same things. Those that were sent before these came do not get them again.
        """
        paths = {file.sha256: Path(file.path) for file in self._job.files}
        paths |= {name: Path("the job") for name in outcome.missing if name.startswith(self._name)}
        sender, worker = uuid.uuid4().hex, outcome.worker
        for digest in dict.fromkeys(outcome.missing):
            shipped = self._shipped.get((worker, digest))
            if shipped is not None and shipped > self._sent[outcome.item.id]:
                continue
            if shipped is not None:
                self._tasks.refuse(worker, f"it does not keep {paths[digest].name}.")
                return None
            try:
                if digest.startswith(self._name):
                    self._tasks.run_on(worker, receive_job, self._name, self._job)
                    self._shipped[worker, digest] = next(self._order)
                    continue
                log.warning("sending %s to %s", paths[digest].name, worker)
                for offset, piece, last in pieces(paths[digest]):
                    self._tasks.run_on(worker, receive, digest, offset, piece, last, sender)
            except Exception as error:  # noqa: BLE001 - whatever a worker raises must not end the batch
                if is_disk_full(error):
                    self._tasks.refuse(worker, f"it has no room for {paths[digest].name} ({reason_of(error)}).")
                    return None
                reason = f"{paths[digest].name} could not be sent to {worker}: {reason_of(error)}"
                return Outcome(outcome.item, reason=reason, passing=True, worker=worker)
            self._shipped[worker, digest] = next(self._order)
        return None
