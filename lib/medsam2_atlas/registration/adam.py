"""Adam's method for one tensor."""

from __future__ import annotations

import math

import torch

_FIRST, _SECOND, _LEAST = 0.9, 0.999, 1e-8


class Adam:
    """Moves a tensor against its gradient, as `torch.optim.Adam` does, to the last bit.

    The first use of an optimiser of torch imports torch's compiler, which takes each process two seconds.

    Args:
        values: a tensor that requires its gradient; it is changed in place.
        rate: length of a step, in units of the values.
    """

    def __init__(self, values: torch.Tensor, rate: float) -> None:
        self._values, self._rate, self._steps = values, rate, 0
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self) -> None:
        """Makes a step along the tensor's gradient, and clears it."""
        gradient, self._values.grad = self._values.grad, None
        assert gradient is not None
        self._steps += 1
        self._mean.lerp_(gradient, 1 - _FIRST)
        self._square.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        scale = (self._square.sqrt() / math.sqrt(1 - _SECOND**self._steps)).add_(_LEAST)
        self._values.addcdiv_(self._mean, scale, value=-self._rate / (1 - _FIRST**self._steps))
