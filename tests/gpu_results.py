"""Runs the same work on the CPU and on a GPU, real or pretended, and compares the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from mask_dice import mask_dice
from pretended_gpu import pretended_gpu

T = TypeVar("T")

MEAN_LOGIT, MAX_LOGIT, LEAST_DICE = 1e-3, 0.1, 0.99


class Gpu:
    """The GPU of tests. `with gpu() as device:` makes it available, if it is a pretended one.

    Attributes:
        real: whether it is a real GPU (`--device cuda`).
    """

    def __init__(self, device: torch.device) -> None:
        self.real = device.type == "cuda"
        self._device = device if self.real else torch.device("cuda")

    @contextmanager
    def __call__(self) -> Iterator[torch.device]:
        if self.real:
            yield self._device
        else:
            with pretended_gpu():
                yield self._device

    def both(self, work: Callable[[torch.device], T]) -> tuple[T, T]:
        """Returns the results of work on the CPU and on the GPU, without TF32, which rounds to 10 bits."""
        with torch.backends.cudnn.flags(allow_tf32=False):
            on_cpu = work(torch.device("cpu"))
            with self() as device:
                return on_cpu, work(device)

    def assert_same_logits(self, on_cpu: torch.Tensor, on_gpu: torch.Tensor) -> None:
        """Asserts that logits are nearly equal: on a GPU, organs form a batch, which adds numbers in another order."""
        assert type(on_gpu) is torch.Tensor, "results are on the CPU"
        assert on_gpu.dtype == torch.float32
        assert (on_cpu > 0).any(), "there is something to compare"
        assert (on_cpu < 0).any()
        difference = (on_cpu - on_gpu).abs()
        assert float(difference.mean()) <= MEAN_LOGIT
        assert float(difference.max()) <= MAX_LOGIT

    def assert_same_labels(self, on_cpu: np.ndarray, on_gpu: np.ndarray, *, rounded: bool = False) -> None:
        """Asserts that label maps `[z, y, x]` are equal, or nearly equal on a real GPU or if `rounded` (autocast)."""
        assert on_cpu.any(), "there is something to compare"
        if not self.real and not rounded:
            assert np.array_equal(on_cpu, on_gpu)
            return
        for k in np.unique(on_cpu[on_cpu > 0]):
            if (on_cpu == k).sum() > 100:
                assert mask_dice(on_gpu == k, on_cpu == k) > LEAST_DICE, k
