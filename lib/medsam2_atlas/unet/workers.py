"""Processes that read training patches.

Their number is limited by the CPUs and by shared memory (`/dev/shm`), through which they pass patches. A container has 64 MB
of shared memory by default. If the processes fail, the training continues without them.
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

from medsam2_atlas.base.processors import processors
from medsam2_atlas.unet.config import UNetConfig

log = logging.getLogger(__name__)

REMEDY = "Give the container more shared memory (docker run --shm-size 1g, or shm_size in compose.yaml)."

_SHARED = Path("/dev/shm")
_MAX_PROCESSES = 8
"""Each process needs memory for its own copy of the training's libraries, so a machine with many CPUs still starts few."""
_PREFETCHED = 2
"""Number of batches that each process prepares ahead, as PyTorch's default."""
_USABLE_SHARE = 0.8
"""Share of the free shared memory that the training may use; other processes need some, too."""
_BYTES_PER_VOXEL = 8
"""Image and label map, in float32."""
_SMALL_ARRAYS = 1 << 17
"""Bytes of the other content of a batch, rounded up to pages."""
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
    """MONAI's loader. If its processes fail, it reads the rest of the epoch and all later epochs without them."""

    num_workers: int
    prefetch_factor: int | None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches of an epoch."""
        state, yielded = self.generator.get_state(), 0
        try:
            for batch in self._started():
                yield batch
                yielded += 1
        except (RuntimeError, OSError, EOFError) as error:
            if self.num_workers == 0 or not is_worker_failure(error):
                raise
            log.warning(
                "the processes that read training patches failed (%s). The training continues without them, more slowly. The "
                "usual cause is too little memory or shared memory. %s",
                problem_in(error),
                REMEDY,
            )
        else:
            return
        self.num_workers, self.prefetch_factor = 0, None
        self.generator.set_state(state)  # the same order of cases
        yield from islice(super().__iter__(), yielded, None)

    def _started(self) -> Iterator[Any]:
        """Starts the processes without PyTorch's signal handler.

        That handler raises an error anywhere in the training when a process dies. Without it, the loader notices the death
        within seconds.
        """
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if main and before is not None:
            signal.signal(signal.SIGCHLD, before)
        return batches


def is_worker_failure(error: BaseException) -> bool:
    """Returns whether the error means that a reading process has died, or that shared memory is too small."""
    if isinstance(error, ConnectionError | EOFError):  # a process died while it sent a batch
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in problem_in(error) for text in _FAILED)


def problem_in(error: BaseException) -> str:
    """Returns the last line of an error's text; an error from another process begins with a traceback.

    >>> problem_in(OSError("Too many open files."))
    'Too many open files'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")[:300]


def worker_count(config: UNetConfig) -> int:
    """Returns the number of processes that read training patches; logs a warning if shared memory limits it."""
    possible = min(_MAX_PROCESSES, processors())
    size, free = batch_bytes(config), _free_bytes()
    fitting = max(0, int((free * _USABLE_SHARE / size - 1) / _PREFETCHED))  # - 1: the batch that the training is using
    if fitting < possible:
        log.warning(
            "%d instead of %d processes read training patches: %s has %.0f MB free, and a batch takes %.0f MB. %s",
            fitting,
            possible,
            _SHARED,
            free / 1e6,
            size / 1e6,
            REMEDY,
        )
    return min(possible, fitting)


def batch_bytes(config: UNetConfig) -> int:
    """Returns the bytes of shared memory that the patches of one optimiser step take."""
    voxels = config.training.cases_per_step * config.training.patches_per_case
    for side in config.patch:
        voxels *= side
    return voxels * _BYTES_PER_VOXEL + _SMALL_ARRAYS


def _free_bytes() -> int:
    try:
        found = os.statvfs(_SHARED)
    except OSError:  # without shared memory, processes cannot pass patches on
        return 0
    return found.f_bavail * found.f_frsize
