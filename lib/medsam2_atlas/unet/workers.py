"""Processes that read training patches: as many as processor and shared memory allow, and none when they fail.

They pass patches on through shared memory (`/dev/shm`), of which a container has 64 MB unless it is given more.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from monai.data import DataLoader

from medsam2_atlas.unet.config import UNetConfig

log = logging.getLogger(__name__)

REMEDY = "Give the container more shared memory (docker run --shm-size 1g, or shm_size in compose.yaml)."

_SHARED = Path("/dev/shm")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MAX_PROCESSES = 8
"""Each process holds a copy of the training's libraries: a machine with many processors is not to be filled with them."""
_PREFETCHED = 2
"""Batches that PyTorch lets each process prepare."""
_USABLE_SHARE = 0.8
"""Share of the free shared memory that is counted on; other processes need some, too."""
_BYTES_PER_VOXEL = 8
"""Image and label map, in float32."""
_SMALL_ARRAYS = 1 << 17
"""Bytes of what else a batch holds, by the page."""
_FAILED = (
    "DataLoader worker (pid",
    "shared memory",
    "unable to write to file",
    "unable to resize file",
    "unable to mmap",
    "Too many open files",
    "items of ancdata",
)


class PatchLoader(DataLoader):
    """MONAI's loader. When its processes fail, the epoch is completed, and all later ones are read, without them."""

    num_workers: int
    prefetch_factor: int | None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Returns the batches of an epoch."""
        state, given = self.generator.get_state(), 0
        try:
            for batch in self._started():
                yield batch
                given += 1
        except (RuntimeError, OSError, EOFError) as error:
            if self.num_workers == 0 or not is_worker_failure(error):
                raise
            log.warning(
                "the processes that read for the training failed (%s), and it goes on, slower, without them. Mostly, memory or "
                "shared memory is too small. %s",
                problem_in(error),
                REMEDY,
            )
        else:
            return
        self.num_workers, self.prefetch_factor = 0, None
        self.generator.set_state(state)  # the same order of cases
        yield from islice(super().__iter__(), given, None)

    def _started(self) -> Iterator[Any]:
        """Starts the processes, without PyTorch's signal handler: it raises an error wherever the training is when one of
        them dies. Without it, the loader itself notices within seconds."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if main and before is not None:
            signal.signal(signal.SIGCHLD, before)
        return batches


def is_worker_failure(error: BaseException) -> bool:
    """Returns whether an error says that a process that reads has died, or that there is too little shared memory."""
    if isinstance(error, ConnectionError | EOFError):  # a process died while it passed on a batch
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in problem_in(error) for text in _FAILED)


def problem_in(error: BaseException) -> str:
    """Returns the line of an error that says what went wrong: the last, where a traceback has been passed on."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")[:300]


def worker_count(config: UNetConfig) -> int:
    """How many processes may read for a training; says in the log where shared memory allows fewer than the processor."""
    possible = min(_MAX_PROCESSES, processors())
    size, free = batch_bytes(config), _free_bytes()
    fitting = max(0, int((free * _USABLE_SHARE / size - 1) / _PREFETCHED))  # one batch more is in the training's hands
    if fitting < possible:
        log.warning(
            "%d instead of %d processes read for the training: %s has %.0f MB free, and a batch takes %.0f MB. %s",
            fitting,
            possible,
            _SHARED,
            free / 1e6,
            size / 1e6,
            REMEDY,
        )
    return min(possible, fitting)


def batch_bytes(config: UNetConfig) -> int:
    """Bytes of the patches of one optimiser step, as they are passed on."""
    voxels = config.training.cases_per_step * config.training.patches_per_case
    for side in config.patch:
        voxels *= side
    return voxels * _BYTES_PER_VOXEL + _SMALL_ARRAYS


def processors() -> int:
    """Returns how many processors this process may use: those that it may run on, fewer where a container has a quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text(encoding="utf-8").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or `max`: no quota
        return count


def _free_bytes() -> int:
    try:
        found = os.statvfs(_SHARED)
    except OSError:  # without it, nothing can be passed on
        return 0
    return found.f_bavail * found.f_frsize
