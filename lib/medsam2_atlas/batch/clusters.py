"""Opens a Dask cluster: on this machine, by the address of its scheduler, or by a queue (`queues`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny, Scheduler, Security

from medsam2_atlas.base.console import console
from medsam2_atlas.base.processors import processors
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.batch.cluster_config import cluster_config
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.batch.dask_calls import CPU, GPU, Cluster
from medsam2_atlas.batch.dask_engine import DaskEngine
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.spec_cluster import security_of, started
from medsam2_atlas.batch.tls import make_certificates

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_DAYS = 60
"""How long the certificates of a local cluster are valid, in days."""


@dataclass(frozen=True)
class Wanted:
    """The workers that a cluster `local` gets.

    Attributes:
        workers: their number; 0: one for each GPU or CPU.
        threads: threads of PyTorch in each of them; 0: one.
        gpus: number of GPUs for networks.
    """

    workers: int = 0
    threads: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Named:
    """A cluster that others run, or that runs on this machine. Its owner replaces lost workers.

    Attributes:
        address: address of the scheduler.
        security: certificates; None without.
        threads: threads of PyTorch in each worker.
        expected: number of its workers by resource; empty if others start them.
    """

    address: str
    security: Security | None = None
    threads: int = 1
    expected: Mapping[str, int] = field(default_factory=dict)

    def keep_up(self, names: set[str]) -> None:
        """Does nothing."""


@contextmanager
def cluster_engine(text: str, session: Session, *, workers: int = 0, tls: Path | None = None) -> Iterator[DaskEngine]:
    """Opens a cluster, and yields an engine that runs cases on it. A cluster that was started here is closed at the end.

    Args:
        text: `local`, the address of a scheduler, or a YAML file.
        session: job and models of this process.
        workers: number of workers of `local`; 0 chooses it.
        tls: folder of certificates for an address.

    Raises:
        InputError: the text names no cluster, or its traffic would not be encrypted.
        UnavailableError: the scheduler does not answer.
    """
    wanted = Wanted(workers, session.job.threads, _gpus(session))
    with opened(text, wanted, tls, session.job.parts.parent) as cluster:
        engine = DaskEngine(cluster, session, batch_config())
        print_cluster(cluster.address, engine.dashboard)
        try:
            yield engine
        finally:
            engine.close()


def print_cluster(address: str, dashboard: str) -> None:
    """Prints the addresses of a cluster's scheduler and of its dashboard, if it has one."""
    shown = f", dashboard {dashboard}" if dashboard else ""
    console.print(f"cluster {address}{shown}", soft_wrap=True, highlight=False)


@contextmanager
def opened(text: str, wanted: Wanted, tls: Path | None, work: Path) -> Iterator[Cluster]:
    """Opens a cluster; see `cluster_engine`.

    Args:
        text: `local`, the address of a scheduler, or a YAML file.
        wanted: the workers of `local`.
        tls: folder of certificates for an address.
        work: folder on the shared disk, for certificates and logs of jobs.
    """
    settings = {"distributed.comm.retry.count": 2, "distributed.scheduler.allowed-failures": 2}
    with _quiet(), dask.config.set(settings):
        if text == "local":
            with local_cluster(wanted) as cluster:
                yield cluster
        elif text.endswith((".yaml", ".yml")):
            from medsam2_atlas.batch.queues import queue_cluster

            with queue_cluster(cluster_config(Path(text)), work) as cluster:
                yield cluster
        else:
            yield Named(text, None if tls is None else security_of(tls), wanted.threads or 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Dask's log: lost workers and schedulers are expected here, and reported in one line each."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def local_cluster(wanted: Wanted) -> Iterator[Named]:
    """Starts a scheduler and workers on the loopback interface of this machine.

    They need certificates of their own, too: other users of this machine can connect to the loopback interface.

    With GPUs, each of them gets a worker that runs networks, and another worker registers meanwhile. Without, each worker does
    both.
    """
    gpus = wanted.gpus
    count = wanted.workers or gpus or max(1, processors() // max(1, wanted.threads))
    with scratch_folder() as folder:
        make_certificates(folder, _DAYS)
        security = security_of(folder)
        with started(**_members(count, gpus, security), security=security) as cluster:
            yield Named(cluster.scheduler_address, security, wanted.threads or 1)


def _members(count: int, gpus: int, security: Security) -> dict[str, Any]:
    """Returns the arguments of a local cluster: its scheduler and its workers."""
    base = {"nthreads": 1, "host": LOOPBACK, "dashboard": False, "silence_logs": logging.ERROR}
    base |= {"protocol": "tls://", "security": security}
    spec: dict[str, dict[str, object]] = {}
    for number in range(count):
        options: dict[str, object] = dict(base)
        if gpus:
            options |= {"resources": {GPU: 1}, "env": {"CUDA_VISIBLE_DEVICES": str(number % gpus)}}
            idle = {"resources": {CPU: 1}, "env": {"CUDA_VISIBLE_DEVICES": ""}}
            spec[f"cpu-{number}"] = {"cls": Nanny, "options": base | idle}
        spec[f"worker-{number}"] = {"cls": Nanny, "options": options}
    place = {"host": LOOPBACK, "port": 0, "dashboard_address": f"{LOOPBACK}:0", "protocol": "tls://", "security": security}
    return {"workers": spec, "scheduler": {"cls": Scheduler, "options": place}}


def _gpus(session: Session) -> int:
    """Returns the number of GPUs that networks may use."""
    if not session.segmenter.uses_network or session.models.device.type != "cuda":
        return 0
    import torch

    return torch.cuda.device_count()
