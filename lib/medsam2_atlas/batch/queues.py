"""Workers as jobs of a queue (SLURM, PBS, LSF), by dask-jobqueue. The scheduler runs in this process.

All traffic is encrypted: the certificates lie on the disk that all machines share, readable by the user alone.
"""

from __future__ import annotations

import itertools
import logging
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_jobqueue.lsf import LSFJob
from dask_jobqueue.pbs import PBSJob
from dask_jobqueue.slurm import SLURMJob
from distributed import Scheduler, Security, SpecCluster

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.batch.cluster_config import ClusterConfig, WorkerGroup
from medsam2_atlas.batch.dask_calls import CPU, GPU
from medsam2_atlas.batch.spec_cluster import security_of, started
from medsam2_atlas.batch.tls import CERTIFICATES, check_certificates, last_long_enough, make_certificates

log = logging.getLogger(__name__)

_JOBS = {"slurm": SLURMJob, "pbs": PBSJob, "lsf": LSFJob}
_TLS_OPTIONS = ("--tls-ca-file", "--tls-cert", "--tls-key")
_LOGS = re.compile(r"[\w./+@=,-]+")
_ASKS_FOR_GPUS = {
    "slurm": re.compile(r"(--gres|--gpus)\b|-G"),
    "pbs": re.compile(r".*\bn?gpus="),
    "lsf": re.compile(r"-gpu\b|.*\bngpus"),
}
_REPLACED_AFTER = 60.0
"""Seconds after which a worker that has left is replaced by a new job; a preempted job may come back by itself."""
_REPORTED_AFTER = 600.0
"""Seconds after which workers that have not joined are reported."""
_SHORT, _MAX_SHORT = 300.0, 3
"""A worker that stayed for fewer seconds than the first number, as often in a row as the second one, is not replaced."""


class QueueCluster:
    """A scheduler in this process, and workers that are jobs of a queue."""

    def __init__(self, config: ClusterConfig, cluster: SpecCluster, security: Security, logs: Path) -> None:
        """Keeps the open cluster.

        Args:
            config: the description of the cluster.
            cluster: the cluster.
            security: its certificates.
            logs: folder of the jobs' logs.
        """
        self._cluster, self._logs = cluster, logs
        self.address, self.security = str(cluster.scheduler_address), security
        self.threads = min(group.cores for group in config.workers)
        self.expected: Counter[str] = Counter()
        for group in config.workers:
            self.expected[_kind(group).upper()] += group.count
        self._joined: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._short: Counter[str] = Counter()
        self._began: float | None = time.monotonic()
        self._order = itertools.count(1)

    def keep_up(self, names: set[str]) -> None:
        """Submits a new job for each worker that has left, for example because its time was up or it was preempted.

        A worker that leaves soon after it has joined, time and again, is not replaced any more.

        Raises:
            InputError: all workers of a kind do that.
        """
        now = time.monotonic()
        for name in names:
            self._joined.setdefault(name, now)
            self._left.pop(name, None)
        for name in self._joined.keys() - names:
            self._left.setdefault(name, now)
        if self._began is not None and now - self._began > _REPORTED_AFTER:
            self._began = None
            if waiting := len(self._cluster.worker_spec.keys() - self._joined.keys()):
                log.warning("%d workers have not joined: the queue is long, or their jobs fail; see %s", waiting, self._logs)
        lost = [name for name, since in self._left.items() if now - since > _REPLACED_AFTER]
        for name in lost:
            left, joined = self._left.pop(name), self._joined.pop(name)
            spec = self._cluster.worker_spec.pop(name, None)
            if spec is None:
                continue
            first = name.partition(".")[0]
            self._short[first] = self._short[first] + 1 if left - joined < _SHORT else 0
            if self._short[first] >= _MAX_SHORT:
                self._give_up(first)
                continue
            log.warning("worker %s has left; a new job replaces it", name)
            self._cluster.worker_spec[f"{first}.{next(self._order)}"] = spec
        if lost:
            self._cluster.loop.add_callback(self._cluster._correct_state)

    def _give_up(self, name: str) -> None:
        log.warning("worker %s has left soon %d times and is not replaced; see %s", name, _MAX_SHORT, self._logs)
        kind = name.partition("-")[0].upper()
        self.expected[kind] -= 1
        if not self.expected[kind]:  # cases would wait for them
            raise InputError(
                self._logs,
                f"show why all {kind} workers left soon after they had joined.",
                "Correct the cluster's file, and run the same command again.",
            )


@contextmanager
def queue_cluster(config: ClusterConfig, folder: Path) -> Iterator[QueueCluster]:
    """Starts a scheduler, submits the workers' jobs, and cancels them at the end.

    Args:
        config: the description of the cluster.
        folder: folder on the shared disk, for certificates and logs.

    Raises:
        InputError: the certificates cannot be used.
    """
    folder = folder.absolute()  # jobs of some queues begin in the user's home
    tls = Path(config.tls) if config.tls else folder / "tls"
    if not config.tls and not last_long_enough(tls):
        remove_folder(tls, folder)
        make_certificates(tls)
    check_certificates(tls)
    security = security_of(tls)
    interface = config.scheduler_interface or config.interface
    options: dict[str, Any] = {"protocol": "tls://", "security": security, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": options | ({"interface": interface} if interface else {})}
    spec = {
        f"{_kind(group)}-{number}-{one}": {
            "cls": _JOBS[config.queue],
            "options": job_options(config, group, tls, folder / "logs"),
        }
        for number, group in enumerate(config.workers)
        for one in range(group.count)
    }
    with started(workers=spec, scheduler=scheduler, security=security) as cluster:
        yield QueueCluster(config, cluster, security, folder / "logs")


def job_options(config: ClusterConfig, group: WorkerGroup, tls: Path, logs: Path) -> dict[str, Any]:
    """Returns the arguments of dask-jobqueue for a worker's job. Paths are quoted here, because dask-jobqueue does not do it.

    Args:
        config: the description of the cluster.
        group: the kind of the worker.
        tls: folder of the certificates.
        logs: folder of the jobs' logs.

    Raises:
        InputError: the path of the logs has characters that mean something in a job script.
    """
    if not _LOGS.fullmatch(str(logs)):
        problem = "has characters that mean something in a job script, such as spaces."
        raise InputError(logs, problem, "Name another folder for the outputs.")
    certificates = (tls.absolute() / name for name in CERTIFICATES)
    encrypted = [
        text for option, file in zip(_TLS_OPTIONS, certificates, strict=True) for text in (option, shlex.quote(str(file)))
    ]
    mixed = len({member.gpus for member in config.workers}) > 1
    resources = ["--resources", f"{_kind(group).upper()}=1"] if mixed or group.gpus else []
    directives = [*group.directives]
    options: dict[str, Any] = {
        "cores": 1,  # cases of a worker: one; its cores are PyTorch's threads
        "memory": group.memory.replace(" ", ""),
        "processes": 1,
        "walltime": _walltime(config, group),
        "python": _python(config, group),
        "job_name": f"medsam2-{_kind(group)}",
        "death_timeout": 120,
        "worker_extra_args": ["--no-dashboard", *resources, *encrypted],
        "job_script_prologue": [f"export OMP_NUM_THREADS={group.cores}", *config.prologue],
        "interface": config.interface or None,
        "protocol": "tls://",
        "local_directory": shlex.quote(config.local_directory) if config.local_directory else None,
        "log_directory": str(logs),
        "queue": group.partition or None,
    }
    if config.queue == "slurm":
        options |= {"account": config.account or None, "job_cpu": group.cores}
        directives = [
            "--requeue",
            *([f"--gres=gpu:{group.gpus}"] if group.gpus and not _asks_for_gpus(config, group) else []),
            *directives,
        ]
    elif config.queue == "pbs":
        gpus = f":ngpus={group.gpus}" if group.gpus and not _asks_for_gpus(config, group) else ""
        memory = group.memory.replace(" ", "").lower()
        options |= {"account": config.account or None, "resource_spec": f"select=1:ncpus={group.cores}:mem={memory}{gpus}"}
    else:
        options |= {"project": config.account or None, "ncpus": group.cores}
        directives = [*([f"-gpu num={group.gpus}"] if group.gpus and not _asks_for_gpus(config, group) else []), *directives]
    return options | {"job_extra_directives": directives}


def job_scripts(config: ClusterConfig) -> dict[str, str]:
    """Returns the job script of each group of workers, by its name, without submitting anything."""
    scripts = {}
    for number, group in enumerate(config.workers):
        options = job_options(config, group, Path(config.tls or "OUT/.batch/tls"), Path("OUT/.batch/logs")) | {
            "log_directory": None
        }
        job = _JOBS[config.queue]("tls://SCHEDULER:PORT", name=f"{_kind(group)}-{number}", **options)
        scripts[f"{group.count} x {_kind(group)}-{number}"] = job.job_script()
    return scripts


def _python(config: ClusterConfig, group: WorkerGroup) -> str:
    """Returns the command of Python in a job, in the container if there is one."""
    python = shlex.quote(config.python or (sys.executable if not config.container else "python3"))
    if not config.container:
        return python
    binds = "".join(f" --bind {shlex.quote(bind)}" for bind in config.binds)
    return f"apptainer exec{' --nv' if group.gpus else ''}{binds} {shlex.quote(config.container)} {python}"


def _kind(group: WorkerGroup) -> str:
    return (GPU if group.gpus else CPU).lower()


def _walltime(config: ClusterConfig, group: WorkerGroup) -> str:
    """Returns the longest time of a job as the queue expects it. LSF has no seconds, so they are rounded up."""
    minutes, seconds = divmod(group.seconds, 60)
    if config.queue == "lsf":
        minutes += seconds > 0
        return f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def _asks_for_gpus(config: ClusterConfig, group: WorkerGroup) -> bool:
    """Returns whether the user's own directives ask for GPUs."""
    return any(_ASKS_FOR_GPUS[config.queue].match(text) for text in group.directives)
