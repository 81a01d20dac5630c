"""What happens where a GPU's memory does not suffice: the same work in ever smaller steps, last on the processor.

A *ladder* (`Ladder`) tries a case as usual, then `small`, `smallest`, and on the processor (`choices.Memory`). Between two
tries it frees what the failed one held. What fitted is remembered for a while, so that the next case does not fail its way
down again. A GPU that fails otherwise (a driver's error, a card that fell off the bus) is not asked again: CUDA cannot be used
any more in a process that has seen such an error.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, get_args

import torch

from medsam2_atlas.choices import Memory

log = logging.getLogger(__name__)

T = TypeVar("T")

STEPS: tuple[Memory, ...] = get_args(Memory)
"""From the most memory to the least."""
REMEMBERED_SECONDS = 600.0

_TOLD: dict[Memory, str] = {
    "": "as usual",
    "small": "in smaller steps",
    "smallest": "in the smallest steps",
    "cpu": "on the processor",
}
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA's runtime and driver, when a context or a kernel is loaded
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS and cuDNN say so where their handles find no memory
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN, where no algorithm's workspace fits
    "Unable to find a valid cuDNN algorithm",
)
_FAILED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "device-side assert")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a GPU's memory does not suffice."""
    return any(
        isinstance(one, torch.OutOfMemoryError) or (isinstance(one, RuntimeError) and _names(one, _OUT_OF_MEMORY))
        for one in _chain(error)
    )


def is_gpu_failure(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is a GPU's own, other than that its memory does not suffice."""
    return not is_out_of_memory(error) and any(isinstance(one, RuntimeError) and _names(one, _FAILED) for one in _chain(error))


def free_gpu_memory() -> None:
    """Gives back to the GPU what nothing refers to any more. Never raises: the GPU may be the one that failed."""
    gc.collect()
    try:
        torch.cuda.empty_cache()  # nothing where CUDA has not been used
    except RuntimeError as error:
        log.warning("the GPU's memory cannot be freed: %s", _first_line(error))


def ran_on(device: torch.device, *, medsam2: bool, unet: bool, memory: Memory = "") -> dict[str, str]:
    """What a result owes to the device of its networks: the device's kind, their precision, and the U-Net's windows if they
    hold fewer slices.

    Results of the processor and of a GPU differ in a few voxels, at edges that are a close call.

    Args:
        device: of the networks.
        medsam2: whether MedSAM2 took part. It runs in float32 everywhere (TF32 is off).
        unet: whether a U-Net took part. On a GPU it runs in float16, by autocast.
        memory: how sparing they were.
    """
    halved = unet and device.type == "cuda"
    parts = [*(["float32"] if medsam2 or not halved else []), *(["U-Net float16" if medsam2 else "float16"] if halved else [])]
    found = {"device": device.type, "precision": ", ".join(parts)}
    return found | ({"windows": "fewer slices"} if unet and memory == "smallest" else {})


@dataclass(frozen=True)
class Climbed:
    """How a case went: `memory`, the step that it was done with, and `note`, why not as usual; empty where it was."""

    memory: Memory
    note: str


class Ladder:
    """Runs cases with as much of a GPU's memory as there is. Safe to ask from several threads."""

    def __init__(self, device: torch.device, release: Callable[[], None] | None = None) -> None:
        """
        Args:
            device: that cases run on; on the processor, the ladder has one step.
            release: drops what is kept on the GPU between cases, such as other networks and encoded slices.
        """
        self.device = device
        self._release = release
        self._lock = threading.Lock()
        self._fitted: dict[str, tuple[Memory, float]] = {}
        self._failure = ""

    @property
    def failure(self) -> str:
        """How the GPU has failed, other than by its memory; empty if it has not."""
        return self._failure

    def first(self, what: str) -> Memory:
        """The step that a case would be tried with now.

        Args:
            what: kind of the cases, such as the name of a model.
        """
        if self._failure or self.device.type == "cpu":
            return "cpu"
        with self._lock:
            memory, since = self._fitted.get(what, ("", 0.0))
            if memory and time.monotonic() - since > REMEMBERED_SECONDS:
                del self._fitted[what]
                memory = ""
        return memory

    def device_of(self, memory: Memory) -> torch.device:
        """Where networks run in a step."""
        return torch.device("cpu") if memory == "cpu" else self.device

    def run(self, what: str, attempt: Callable[[Memory], T]) -> tuple[T, Climbed]:
        """Runs a case, in smaller steps where the memory does not suffice.

        Args:
            what: kind of the case; what fitted is remembered for its kind.
            attempt: runs the case in a step. It must keep nothing on the GPU that only `release` does not know.

        Raises:
            Exception: whatever `attempt` raises, other than about the GPU; and anything that it raises on the processor.
        """
        first = self.first(what)
        notes = [f"the GPU failed ({self._failure})"] if self._failure else []
        for memory in STEPS[STEPS.index(first) :]:
            if self._failure and memory != "cpu":
                continue
            try:
                result = attempt(memory)
            except Exception as error:
                if memory == "cpu" or not self._takes(error):
                    raise
                problem = "" if self._failure else _first_line(error)
            else:
                if memory != first and not self._failure:
                    with self._lock:
                        self._fitted[what] = (memory, time.monotonic())
                if not notes and memory and self.device.type != "cpu":
                    notes.append("out of GPU memory a short time ago")
                return result, Climbed(memory, f"{'; '.join(notes)}; done {_TOLD[memory]}" if notes else "")
            # Outside of the `except`: there, the error's frames would still hold the tensors of the failed try.
            if problem:
                log.warning("%s: out of GPU memory %s: %s", what, _TOLD[memory], problem)
                notes.append(f"out of GPU memory {_TOLD[memory]}")
            else:
                notes.append(f"the GPU failed ({self._failure})")
            if self._release is not None:
                self._release()
            free_gpu_memory()
        raise AssertionError("the last step returns or raises")

    def _takes(self, error: Exception) -> bool:
        """Whether the next step may help; remembers a GPU that failed."""
        if self.device.type == "cpu":
            return False
        if is_gpu_failure(error):
            self._failure = _first_line(error)
            log.error(
                "the GPU %s has failed (%s): networks run on the processor until the program is started again",
                self.device,
                self._failure,
            )
            return True
        return is_out_of_memory(error)


def _names(error: BaseException, texts: tuple[str, ...]) -> bool:
    told = str(error)
    return any(text in told for text in texts)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that it came from; libraries wrap what their parts raise."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _first_line(error: BaseException) -> str:
    gpu = next((one for one in _chain(error) if isinstance(one, RuntimeError)), error)
    return (str(gpu).splitlines() or [type(gpu).__name__])[0][:200]
