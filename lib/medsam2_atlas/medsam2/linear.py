"""Linear layers and matrix products of the engine, by PyTorch's usual library (MKL) or by oneDNN.

On many processors, oneDNN multiplies float32 matrices faster than MKL, with the same error. PyTorch reaches it for single
layers only through private operators, which a release may remove. A process therefore measures both once (`measured`) and
uses oneDNN only if it is present, as precise and not clearly slower. `configs/medsam2.yaml` can choose one of them (`linear`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sam2.modeling.memory_encoder import CXBlock
from sam2.modeling.sam2_utils import MLP
from torch import nn

from medsam2_atlas.medsam2.config import medsam2_config

log = logging.getLogger(__name__)

Activation = Literal["none", "relu", "gelu"]
Backend = Literal["onednn", "torch"]

_SHAPES = ((1024, 256, 2048), (1024, 2048, 256), (128, 256, 4096))
"""Rows, inputs and outputs of the measured products: the memory attention's feed-forward layers and its scores."""
_REPEATS = 5
_MAX_ERROR = 4.0
"""Max mean error of oneDNN, as a multiple of PyTorch's. Float32 in another order gives about 2, bfloat16 several thousand."""
_MIN_SPEED = 0.8
"""Min rate of oneDNN, as a multiple of PyTorch's. It is below 1 so that noise does not change the choice between processes."""
_PACKED_ROWS = 1024
"""Number of rows for which oneDNN packs weights; other numbers of rows give the same result."""
_ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.GELU: "gelu"}
_MIN_SIZE = 32
"""Min number of rows, inputs and outputs of a product by oneDNN; smaller products gain nothing."""


@dataclass(frozen=True)
class Measurement:
    """The comparison of both libraries on this machine, with the threads of this process.

    Attributes:
        torch_rate: the rate of PyTorch's products, in GFLOP/s.
        onednn_rate: the rate of oneDNN's products, in GFLOP/s; 0 if they cannot be used.
        problem: why oneDNN is not used; empty if it is.
    """

    torch_rate: float
    onednn_rate: float
    problem: str

    @property
    def backend(self) -> Backend:
        """The library to use."""
        return "torch" if self.problem else "onednn"

    def describe(self) -> str:
        """Returns the library and both rates, for reports.

        >>> Measurement(84.2, 105.4, "").describe()
        'oneDNN (105 GFLOP/s, PyTorch 84)'
        >>> Measurement(84.2, 0.0, "not in this build of PyTorch").describe()
        'PyTorch (84 GFLOP/s; oneDNN: not in this build of PyTorch)'
        """
        if self.problem:
            return f"PyTorch ({self.torch_rate:.0f} GFLOP/s; oneDNN: {self.problem})"
        return f"oneDNN ({self.onednn_rate:.0f} GFLOP/s, PyTorch {self.torch_rate:.0f})"


def backend_of(tensor: torch.Tensor) -> Backend:
    """Returns the library that multiplies matrices of a tensor's device and precision; the tensor may have any shape."""
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.bfloat16):
        return "torch"
    chosen = medsam2_config().linear
    return measured().backend if chosen == "auto" else chosen


def describe() -> str:
    """Returns which library multiplies matrices on the processor, for reports."""
    chosen = medsam2_config().linear
    return measured().describe() if chosen == "auto" else {"onednn": "oneDNN", "torch": "PyTorch"}[chosen] + " (as configured)"


@cache
def measured() -> Measurement:
    """Compares both libraries, once in a process; takes about 0.1 s of processor time."""
    draw = torch.Generator().manual_seed(0)
    rates: dict[str, list[float]] = {"torch": [], "onednn": []}
    with torch.inference_mode():
        for rows, inputs, outputs in _SHAPES:
            x, weight = torch.randn(rows, inputs, generator=draw), torch.randn(outputs, inputs, generator=draw)
            true = x.double() @ weight.double().T
            usual, usual_seconds = _timed(partial(F.linear, x, weight))
            flops = 2 * rows * inputs * outputs / 1e9
            rates["torch"].append(flops / usual_seconds)
            try:
                other, seconds = _timed(partial(_onednn, x, _packed(weight), None, "none"))
            except (AttributeError, RuntimeError, TypeError) as error:  # the operator is missing, or its arguments have changed
                log.info("oneDNN's linear layers cannot be used: %s", error)
                return Measurement(rates["torch"][0], 0.0, "not in this build of PyTorch")
            rates["onednn"].append(flops / seconds)
            if not float((other - true).abs().mean()) <= _MAX_ERROR * float((usual - true).abs().mean()):
                return Measurement(rates["torch"][0], rates["onednn"][0], "less precise on this processor")
    torch_rate, onednn_rate = (_harmonic_mean(rates[name]) for name in ("torch", "onednn"))
    slower = onednn_rate < _MIN_SPEED * torch_rate
    return Measurement(torch_rate, onednn_rate, f"slower on this processor, {onednn_rate:.0f}" if slower else "")


class Linear(nn.Module):
    """A linear layer and its activation: act(x·Wᵀ + b).

    Args:
        weight: `[outputs, inputs]`.
        bias: `[outputs]`.
        activation: the activation: `none`, `relu` or `gelu` (by the error function).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: Activation = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = weight.detach(), bias.detach(), activation
        self.out_features, self.in_features = weight.shape
        packs = min(weight.shape) >= _MIN_SIZE and backend_of(weight) == "onednn"
        self._packed_weight = _packed(self.weight) if packs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output, `[n, ..., outputs]`, for an input `[n, ..., inputs]`."""
        x = x.to(self.weight.dtype)
        large = x.numel() >= _MIN_SIZE * self.in_features
        if self._packed_weight is not None and large:
            return _onednn(x.contiguous(), self._packed_weight, self.bias, self.activation)
        y = F.linear(x, self.weight, self.bias)
        return {"none": lambda v: v, "relu": F.relu, "gelu": F.gelu}[self.activation](y)

    def halve(self, half: torch.dtype) -> None:
        """Rounds the weights to a 16-bit format, in which the layer then computes."""
        self.weight, self.bias = self.weight.to(half), self.bias.to(half)
        if self._packed_weight is not None:
            self._packed_weight = _packed(self.weight)


def product(x: torch.Tensor, y: torch.Tensor, backend: Backend, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Returns x·yᵀ + bias `[n, m]` of two matrices `[n, k]` and `[m, k]`, and a bias `[m]`."""
    return _onednn(x, y, bias, "none") if backend == "onednn" else F.linear(x, y, bias)


def replace_linear_layers(part: nn.Module) -> None:
    """Replaces all linear layers inside a module of sam2 by the engine's own, which share their weights.

    Activations between the layers of a multilayer perceptron become part of the layers.
    """
    for name, child in list(part.named_children()):
        activation = _ACTIVATIONS.get(type(child.act)) if isinstance(child, MLP | CXBlock) else None
        if isinstance(child, MLP) and activation is not None:
            *inner, last = child.layers
            child.layers = nn.ModuleList(
                [*(Linear(m.weight, m.bias, activation) for m in inner), Linear(last.weight, last.bias)]
            )
            child.act = nn.Identity()
        elif isinstance(child, nn.Linear):
            setattr(part, name, Linear(child.weight, child.bias))
        else:
            replace_linear_layers(child)
            if isinstance(child, CXBlock) and activation is not None:
                child.pwconv1.activation, child.act = activation, nn.Identity()


def _packed(weight: torch.Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)


def _onednn(x: torch.Tensor, weight: Any, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    algorithm = "none" if activation == "gelu" else ""  # of the GELU: by the error function
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    return found


def _timed(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Returns the result and the shortest processor time of the calling thread in some runs, in seconds."""
    result, seconds = work(), []
    for _ in range(_REPEATS):
        began = time.thread_time()  # wall time would measure other programs too
        work()
        seconds.append(time.thread_time() - began)
    return result, min(seconds)


def _harmonic_mean(rates: list[float]) -> float:
    return len(rates) / sum(1 / rate for rate in rates)
