"""The arithmetic of a prepared network: as precise as its weights, or with 16-bit matrix products by autocast.

Autocast is active inside the network's calls only. What calls the engine, and what the engine calls back (progress, a person's
points), keeps its own precision. A caller's autocast does not reach the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import nn

from medsam2_atlas.medsam2.linear import Linear

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Arithmetic:
    """The precision of a network on its device.

    Attributes:
        device: the type of the device.
        half: the 16-bit format of matrix products and convolutions; None if they have the weights' precision.
    """

    device: str
    half: torch.dtype | None = None

    def __call__(self) -> Any:
        """Returns a context in which operators have this precision."""
        if self.half is None:
            return torch.autocast(self.device, enabled=False)
        # Autocast caches only weights that need gradients. The weights here have 16 bits already (`halve_weights`).
        return torch.autocast(self.device, self.half, cache_enabled=False)

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a tensor of any shape in the format of the products that read it, so that it is converted only once."""
        return tensor if self.half is None else tensor.to(self.half)


class _HasArithmetic(Protocol):
    arithmetic: Arithmetic


S = TypeVar("S", bound=_HasArithmetic)


def in_own_arithmetic(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a method run in the arithmetic of its object."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **options: P.kwargs) -> R:
        with self.arithmetic():
            return method(self, *args, **options)

    return cast(Callable[Concatenate[S, P], R], run)


def halve_weights(part: nn.Module, half: torch.dtype) -> None:
    """Replaces the weights of a module's matrix products and convolutions by 16-bit copies; norms keep their precision.

    Other modules that share the weights keep theirs.
    """
    for module in part.modules():
        if isinstance(module, Linear):
            module.halve(half)
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            for name, weights in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weights.detach().to(half), requires_grad=False))
