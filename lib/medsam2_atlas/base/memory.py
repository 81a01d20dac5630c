"""Repeats work in smaller steps if a GPU's memory does not suffice, and finally on the processor.

A *ladder* (`Ladder`) tries a case as usual, then `small`, `smallest`, and on the processor (`choices.Memory`). Between two
attempts it frees the memory of the failed one. It remembers the step that fitted for a while, and begins the next case with it.
After any other error of the GPU, it tries a kernel. If that fails too, the ladder never uses the GPU again, since a process
that has lost its CUDA context does not get another.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, get_args

import torch

from medsam2_atlas.base.cards import try_kernel
from medsam2_atlas.base.choices import Memory, Mode
from medsam2_atlas.base.gpu_errors import first_line, is_gpu_failure, is_out_of_memory
from medsam2_atlas.base.precision import ProcessorFormat, dtype_name, engine_dtype

log = logging.getLogger(__name__)

T = TypeVar("T")

STEPS: tuple[Memory, ...] = get_args(Memory)
"""All steps, in the order of decreasing memory."""
REMEMBERED_SECONDS = 600.0
"""How long cases begin with the step that fitted; afterwards, other programs may have freed memory."""

_DESCRIPTIONS: dict[Memory, str] = {
    "": "as usual",
    "small": "in smaller steps",
    "smallest": "in the smallest steps",
    "cpu": "on the processor",
}
_halved: ContextVar[list[int] | None] = ContextVar("_halved", default=None)
"""The sizes of halved parts in the current attempt of a ladder, which mentions them in its note; None without a ladder."""


def free_gpu_memory() -> None:
    """Frees GPU memory that nothing refers to any more. It never raises an error, because the GPU may have failed."""
    gc.collect()
    try:
        torch.cuda.empty_cache()  # does nothing if CUDA has not been used
    except RuntimeError as error:
        log.warning("the GPU's memory cannot be freed: %s", first_line(error))


def in_parts(items: Sequence[T], size: int, work: Callable[[Sequence[T]], object]) -> int:
    """Runs work on successive parts of items, and again on half of a part if the GPU's memory does not suffice for it.

    This is cheaper than the next step of a ladder, which repeats the whole case.

    Args:
        items: the items, in order.
        size: max number of items of a part.
        work: processes a part. If it fails for lack of memory, it is repeated on fewer items, so a failed call must not have
            changed anything that the next call reads.

    Returns:
        The max number of items with which the last part succeeded; `size` if the memory sufficed.

    Raises:
        Exception: any other error of `work`, and a lack of memory for a single item.
    """
    first = 0
    while first < len(items):
        part = items[first : first + size]
        try:
            work(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            problem = first_line(error)
        else:
            first += len(part)
            continue
        # After the `except` block, inside which the error's frames still refer to the tensors of the failed attempt.
        free_gpu_memory()
        size = (len(part) + 1) // 2
        if (halved := _halved.get()) is not None:
            halved.append(size)
        log.warning("out of GPU memory with %d at a time, so the next part has %d: %s", len(part), size, problem)
    return size


def ran_on(
    device: torch.device,
    *,
    medsam2: bool,
    unet: bool,
    memory: Memory = "",
    mode: Mode = "exact",
    processor: ProcessorFormat = "auto",
) -> dict[str, str]:
    """Returns the provenance of a result's device: its kind, the networks' precision, and whether windows had fewer slices.

    Results of the processor and of a GPU differ in a few voxels at ambiguous edges. The other memory-saving steps only change
    the order of sums, as another GPU or version of CUDA does; they are not recorded.

    Args:
        device: the device of the networks.
        medsam2: whether MedSAM2 was used. It runs in float32 (TF32 is off), or in 16 bits in fast mode
            (`precision.engine_dtype`).
        unet: whether a U-Net was used. On a GPU it runs in float16, by autocast.
        memory: the step of the ladder.
        mode: the mode of MedSAM2's engine.
        processor: the format of fast mode on the processor.
    """
    halved = unet and device.type == "cuda"
    engine = dtype_name(engine_dtype(device, mode, processor)) if medsam2 else "float32"
    parts = [*([engine] if medsam2 or not halved else []), *(["U-Net float16" if medsam2 else "float16"] if halved else [])]
    found = {"device": device.type, "precision": ", ".join(parts)}
    return found | ({"windows": "fewer slices"} if unet and memory == "smallest" else {})


@dataclass(frozen=True)
class Step:
    """The step with which a case was done.

    Attributes:
        memory: the step.
        note: the reason for a step other than the usual one; empty for the usual step.
    """

    memory: Memory
    note: str


class Ladder:
    """Runs cases with the GPU memory that is available. Safe for several threads."""

    def __init__(self, device: torch.device, release: Callable[[], None] | None = None) -> None:
        """Creates a ladder for a device.

        Args:
            device: the device of the cases; on the processor, the ladder has only one step.
            release: frees the objects that stay on the GPU between cases, such as other networks and encoded slices.
        """
        self.device = device
        self._release = release
        self._lock = threading.Lock()
        self._fitted: dict[str, tuple[Memory, float]] = {}
        self._failure = ""

    @property
    def failure(self) -> str:
        """The first line of the error after which the GPU is no longer used; empty if there was none."""
        return self._failure

    @property
    def steps(self) -> tuple[Memory, ...]:
        """All steps that are possible on this device."""
        return ("cpu",) if self.device.type == "cpu" else STEPS

    def first(self, what: str) -> Memory:
        """Returns the step with which a case would begin now.

        Args:
            what: kind of the case, such as the name of a model.
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
        """Returns the device on which networks run in a step."""
        return torch.device("cpu") if memory == "cpu" else self.device

    def run(self, what: str, attempt: Callable[[Memory], T]) -> tuple[T, Step]:
        """Runs a case, in smaller steps if the memory does not suffice; returns its result and the step that worked.

        Args:
            what: kind of the case, such as the name of a model; the step that fitted is remembered per kind.
            attempt: runs the case in a step. After it, only objects that `release` frees may stay on the GPU.

        Raises:
            Exception: any error of `attempt` that the GPU did not cause, and any error on the processor.
        """
        first = self.first(what)
        notes = [f"the GPU failed ({self._failure})"] if self._failure else []
        for memory in STEPS[STEPS.index(first) :]:
            if self._failure and memory != "cpu":
                continue
            halved = _halved.set([])
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
                done = _DESCRIPTIONS[memory]
                if _halved.get():
                    notes = notes or ["out of GPU memory at times"]
                    done += " with smaller batches"
                return result, Step(memory, f"{'; '.join(notes)}; done {done}" if notes else "")
            finally:
                _halved.reset(halved)
            # After the `except` block, inside which the error's frames still refer to the tensors of the failed attempt.
            if self._release is not None:
                self._release()
            free_gpu_memory()
            if short:
                log.warning("%s: out of GPU memory %s: %s", what, _DESCRIPTIONS[memory], problem)
                notes.append(f"out of GPU memory {_DESCRIPTIONS[memory]}")
            else:
                self._check_gpu(what, problem)
                notes.append(f"the GPU failed ({problem})")
        raise AssertionError("the last step returns or raises")

    def _check_gpu(self, what: str, problem: str) -> None:
        """Tries a kernel after an error of the GPU; marks the GPU as failed if the kernel fails too."""
        log.warning("%s: the GPU %s failed: %s", what, self.device, problem)
        if try_kernel(self.device).problem:
            self._failure = problem
            log.error("the GPU %s no longer works: networks run on the processor until the program is restarted", self.device)
