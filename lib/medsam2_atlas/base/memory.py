"""What happens where a GPU's memory does not suffice: the same work in ever smaller steps, last on the processor.

A *ladder* (`Ladder`) tries a case as usual, then `small`, `smallest`, and on the processor (`choices.Memory`). Between two
tries it frees what the failed one held. What fitted is remembered for a while, so that the next case begins there. After
another error of the GPU, a kernel is tried: if that fails too, the GPU is not asked again, since a process whose CUDA context
is lost does not get another.
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

from medsam2_atlas.base.choices import Memory

log = logging.getLogger(__name__)

T = TypeVar("T")

STEPS: tuple[Memory, ...] = get_args(Memory)
"""From the most memory to the least."""
REMEMBERED_SECONDS = 600.0
"""How long a step that fitted is begun with: other programs give their memory back at some time."""

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
_ALLOCATOR = ("NVML_SUCCESS", "CUDACachingAllocator")
"""Both in one text: the allocator found no memory, and may not ask NVML how much there is (parts of a card, some containers):
https://github.com/pytorch/pytorch/issues/112377."""
_FAILED = (
    *("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cusolver error", "nvrtc: error"),
    *("device-side assert", "Triton Error [CUDA]", "No CUDA GPUs are available", "HIP error"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a GPU's memory does not suffice."""
    return any(
        isinstance(one, torch.OutOfMemoryError)
        or (isinstance(one, RuntimeError) and (_names(one, _OUT_OF_MEMORY) or all(text in str(one) for text in _ALLOCATOR)))
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
        log.warning("the GPU's memory cannot be freed: %s", first_line(error))


def ran_on(device: torch.device, *, medsam2: bool, unet: bool, memory: Memory = "") -> dict[str, str]:
    """What a result owes to the device of its networks: the device's kind, their precision, and the U-Net's windows if they
    hold fewer slices.

    Results of the processor and of a GPU differ in a few voxels, at edges that are a close call. The other steps that spare
    memory change the order of sums only, as another GPU or version of CUDA does; they are not told apart.

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
class Step:
    """The step that a case was done with, and in `note` why not as usual; empty if it was."""

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

    @property
    def steps(self) -> tuple[Memory, ...]:
        """All steps that a case may be done with on this device."""
        return ("cpu",) if self.device.type == "cpu" else STEPS

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

    def run(self, what: str, attempt: Callable[[Memory], T]) -> tuple[T, Step]:
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
                short = is_out_of_memory(error)
                if memory == "cpu" or not (short or is_gpu_failure(error)):
                    raise
                problem = first_line(error)
            else:
                if memory != first and not self._failure:
                    with self._lock:
                        self._fitted[what] = (memory, time.monotonic())
                if not notes and memory and self.device.type != "cpu":
                    notes.append("out of GPU memory a short time ago")
                return result, Step(memory, f"{'; '.join(notes)}; done {_TOLD[memory]}" if notes else "")
            # Outside of the `except`: there, the error's frames would still hold the tensors of the failed try.
            if self._release is not None:
                self._release()
            free_gpu_memory()
            if short:
                log.warning("%s: out of GPU memory %s: %s", what, _TOLD[memory], problem)
                notes.append(f"out of GPU memory {_TOLD[memory]}")
            else:
                self._look_after(what, problem)
                notes.append(f"the GPU failed ({problem})")
        raise AssertionError("the last step returns or raises")

    def _look_after(self, what: str, problem: str) -> None:
        """Tries a kernel after an error of the GPU; remembers a GPU that can run none any more."""
        from medsam2_atlas.base.cards import try_kernel  # asks this module what an error means

        log.warning("%s: the GPU %s failed: %s", what, self.device, problem)
        if try_kernel(self.device).problem:
            self._failure = problem
            log.error("the GPU %s runs nothing any more: networks run on the processor until a new start", self.device)


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


def first_line(error: BaseException) -> str:
    """What a GPU said of an error, in one line: the lines after the first are hints for developers."""
    gpu = next((one for one in _chain(error) if isinstance(one, RuntimeError)), error)
    return (str(gpu).splitlines() or [type(gpu).__name__])[0][:200]
