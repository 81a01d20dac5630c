"""Cards of a pretended machine: their operators, their memory, and their failures."""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Callable

import torch

MB = 1 << 20


def out_of_memory() -> Exception:
    """Returns the error of PyTorch's own allocator."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.15 GiB.")


def cublas_allocation_failed() -> Exception:
    """Returns the error of cuBLAS when its handle or work space does not fit; it is not an `OutOfMemoryError`."""
    return RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def cudnn_allocation_failed() -> Exception:
    """Returns the error of cuDNN when its work space does not fit."""
    return RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


def driver_out_of_memory() -> Exception:
    """Returns the error of CUDA itself, for example when another program leaves too little memory for the context."""
    return RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call")


def illegal_access() -> Exception:
    """Returns an error after which a real process can no longer use its card."""
    return RuntimeError("CUDA error: an illegal memory access was encountered")


def kernel_missing() -> Exception:
    """Returns the error of a build of PyTorch that has no kernels for the card."""
    return RuntimeError("CUDA error: no kernel image is available for execution on the device")


class _Block:
    """The memory of one storage. Tensors that share the storage share the block; it is freed with the last of them."""

    __slots__ = ("__weakref__", "card", "size")

    def __init__(self, card: Card, size: int) -> None:
        self.card, self.size = card, size

    def __del__(self) -> None:
        self.card.used -= self.size


class Card:
    """One pretended card.

    Attributes:
        memory: bytes that the process may use.
        total: bytes of the card.
        used: bytes that tensors use now.
        peak: max of `used` so far.
        operations: number of runs of each operator on this card; copies to and from the card count as `to`.
    """

    def __init__(self, memory: int) -> None:
        self.memory, self.total, self.used, self.peak = memory, memory, 0, 0
        self.operations: Counter[str] = Counter()
        self._blocks: weakref.WeakValueDictionary[int, _Block] = weakref.WeakValueDictionary()
        self._failures: list[tuple[int, int, Callable[[], Exception]]] = []

    @property
    def count(self) -> int:
        """The number of operators that ran on this card."""
        return sum(self.operations.values())

    def fail(self, error: Callable[[], Exception] = out_of_memory, *, after: int = 0, times: int = 1) -> None:
        """Makes `times` operators raise an error, after `after` more have run."""
        begin = self.count + after
        self._failures.append((begin, begin + times, error))

    def note(self, operator: str) -> None:
        """Counts an operator, and raises the error that `fail` has set."""
        number = self.count
        self.operations[operator] += 1
        for begin, end, error in self._failures:
            if begin <= number < end:
                raise error()

    def hold(self, values: torch.Tensor) -> _Block:
        """Returns the block of a tensor's storage, for the tensor to keep.

        Raises:
            torch.OutOfMemoryError: if it does not fit.
        """
        storage = values.untyped_storage()
        block = self._blocks.get(storage._cdata)
        if block is None:
            size = storage.nbytes()
            if self.used + size > self.memory:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / MB:.2f} MiB. GPU 0 has a total capacity of "
                    f"{self.memory / MB:.2f} MiB of which {(self.memory - self.used) / MB:.2f} MiB is free."
                )
            block = self._blocks[storage._cdata] = _Block(self, size)
            self.used += size
            self.peak = max(self.peak, self.used)
        return block


class Machine:
    """The cards of a pretended machine, and the process that may use them.

    Attributes:
        cards: the cards.
        current: the number of the current card.
        waits: how often the CPU has waited for a card: for a value or a tensor from it, or for a copy to it from memory that is
            not pinned.
    """

    def __init__(self, cards: int, megabytes: float) -> None:
        self.cards = [Card(int(megabytes * MB)) for _ in range(cards)]
        self.current = 0
        self.waits = 0
        self._process = os.getpid()

    def index(self, device: object = None) -> int:
        """Returns the number of a device's card; `cuda` means the current card."""
        named = torch.device(device) if isinstance(device, str) else device
        number = named.index if isinstance(named, torch.device) else named
        return self.current if number is None else int(number)  # type: ignore[call-overload]

    def card(self, device: object = None) -> Card:
        """Returns the card of a device.

        Raises:
            RuntimeError: if there is no such card, or this process was forked from one that has used CUDA.
        """
        if os.getpid() != self._process:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, use 'spawn'.")
        number = self.index(device)
        if number >= len(self.cards):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return self.cards[number]
