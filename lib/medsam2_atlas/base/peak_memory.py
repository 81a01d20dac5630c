"""Measures the peak memory of a block of work, also by stage: main memory of this process, and memory of GPUs.

Main memory is the peak resident set size. Linux records it per process (`VmHWM` in `/proc/self/status`), and sets it to the
current size when 5 is written to `/proc/self/clear_refs`; see proc(5). It includes all threads of the process and files mapped
into memory, but no child processes. GPU memory is what PyTorch's allocator handed out, on the GPU that used the most; the
CUDA context and the allocator's reserve are not included.

Nothing here affects the work: a value that cannot be measured is None, and `problem` gives the reason.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.base.stages import Observer, observing

_lock = threading.Lock()
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_KIB_PER_MIB, _MIB = 1024, 2**20

Peak = dict[str, float | None]
"""The peaks of a stage, MiB: `mib` in main memory, `gpu_mib` on the GPU."""


@contextmanager
def peak_memory() -> Iterator[dict[str, Any]]:
    """Measures the block; yields a dictionary that contains the peaks after the block has ended.

    Its keys are `mib` (peak main memory, MiB; None if unknown), `gpu_mib` (peak GPU memory, MiB; None if no GPU was used),
    `stages`, which maps each stage (see `stages`) to the same two values, and `problem` if main memory could not be measured.
    A peak includes what was in use when the stage began, such as loaded networks. Only one block is measured at a time.
    """
    found: dict[str, Any] = {"mib": None, "gpu_mib": None, "stages": {}}
    if not _lock.acquire(blocking=False):
        yield found | {"problem": "other work was measured at the same time"}
        return
    try:
        meter = _Peaks()
        try:
            with observing(meter):
                yield found
        finally:
            meter.close(meter.running)
            found |= {key: _highest(meter.stages, key) for key in ("mib", "gpu_mib")} | {"stages": meter.stages}
            if meter.problem:
                found |= {"mib": None, "problem": meter.problem}
    finally:
        _lock.release()


class _Peaks(Observer):
    """Reads the peaks at the end of each stage, and resets them.

    Attributes:
        stages: peaks by stage; the highest one if a stage ran several times.
        problem: why main memory was not measured; empty if it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, Peak] = {}
        self.problem = ""
        self._reset()

    def switch(self, before: str) -> None:
        """Reads the peaks of a stage, and resets them for the next one."""
        self.close(before)
        self._reset()

    def close(self, name: str) -> None:
        """Adds the current peaks to a stage."""
        peaks = {"now": Peak(mib=self._resident(), gpu_mib=_gpu_peak()), "before": self.stages.get(name, {})}
        self.stages[name] = {key: _highest(peaks, key) for key in ("mib", "gpu_mib")}

    def _resident(self) -> float | None:
        """Returns the peak resident set size since the last reset, MiB."""
        if self.problem:
            return None
        try:
            lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
            kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            return round(kibibytes / _KIB_PER_MIB, 1)
        except (OSError, ValueError, IndexError, StopIteration) as error:
            self.problem = f"{_STATUS} gives no peak: {problem_of(error)}"
            return None

    def _reset(self) -> None:
        if not self.problem:
            try:
                _RESET.write_text("5", encoding="ascii")
            except OSError as error:
                self.problem = f"the peak cannot be reset: {problem_of(error)}"
        _reset_gpu()


def _highest(peaks: dict[str, Peak], key: str) -> float | None:
    values = [value for peak in peaks.values() if (value := peak.get(key)) is not None]
    return max(values, default=None)


def _cuda() -> Any:
    """Returns `torch.cuda` if this process uses a GPU, else None. PyTorch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _gpu_peak() -> float | None:
    """Returns the peak since the last reset on the GPU that used the most, MiB; None if no GPU is used or it failed."""
    try:
        cuda = _cuda()
        if cuda is None:
            return None
        peaks = [cuda.max_memory_allocated(device) for device in range(cuda.device_count())]
        return round(max(peaks) / _MIB, 1) if peaks else None
    except Exception:  # noqa: BLE001 - a GPU that fails raises many types of errors
        return None


def _reset_gpu() -> None:
    try:
        cuda = _cuda()
        if cuda is not None:
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
    except Exception:  # noqa: BLE001 - as above; the value is then that since the last reset
        pass
