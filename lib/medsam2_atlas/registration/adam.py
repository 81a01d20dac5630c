"""Adam's method for one tensor."""

from __future__ import annotations

import math

import torch

from medsam2_atlas.registration.config import AdamConfig

_EPSILON = 1e-8
"""Keeps steps finite if gradients vanish; the value of the paper."""
_PUBLISHED = AdamConfig.model_validate({})


class Adam:
    """An Adam optimiser (Kingma and Ba, ICLR 2015) whose steps equal those of `torch.optim.Adam` to the last bit.

    It exists because torch's own optimisers import torch's compiler at first use, which takes two seconds in each process.

    Args:
        values: the tensor to optimise, of any shape; it requires a gradient and is changed in place.
        rate: the length of a step, in units of the values.
        config: the decay rates of the running means; those of the paper by default.
    """

    def __init__(self, values: torch.Tensor, rate: float, config: AdamConfig = _PUBLISHED) -> None:
        self._values, self._rate, self._steps = values, rate, 0
        self._decays = config.mean_decay, config.square_decay
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self) -> None:
        """Makes one step against the tensor's gradient, and clears the gradient."""
        gradient, self._values.grad = self._values.grad, None
        assert gradient is not None
        self._steps += 1
        first, second = self._decays
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (self._square.sqrt() / math.sqrt(1 - second**self._steps)).add_(_EPSILON)
        self._values.addcdiv_(self._mean, scale, value=-self._rate / (1 - first**self._steps))
