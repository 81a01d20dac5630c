"""Decides the number format of MedSAM2's engine: float32, or 16 bits in fast mode.

Exact mode computes in float32 everywhere. In fast mode on a GPU, matrix products and convolutions run in bfloat16, which has
the range of float32. Cards without bfloat16 arithmetic use float16. Cards without tensor cores use float32, because float16 is
not faster there.

On the processor, fast mode uses bfloat16 if the processor multiplies it in hardware and a product is as precise as expected.
Neither depends on timing, so that a machine always decides in the same way. Processors without such instructions emulate
bfloat16 more slowly than they compute in float32.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from medsam2_atlas.base.choices import Mode

ProcessorFormat = Literal["auto", "float32", "bfloat16"]
"""The format of fast mode on the processor; `auto`: bfloat16 if the processor multiplies it in hardware."""

_BFLOAT16 = (8, 0)
"""The first compute capability with bfloat16 arithmetic: Ampere."""
_TENSOR_CORES = (7, 0)
"""The first compute capability with tensor cores: Volta."""


_MAX_ERROR = 0.01
"""Max mean error of a product in bfloat16, relative to the product's mean. Rounding to 8 bits gives about 0.002."""


def engine_dtype(device: torch.device, mode: Mode, processor: ProcessorFormat = "auto") -> torch.dtype:
    """Returns the format in which the engine's matrix products and convolutions run.

    Args:
        device: the device of the network.
        mode: the engine's mode.
        processor: the format of fast mode on the processor.

    Returns:
        `float32`, or in fast mode `bfloat16` or, on a GPU, `float16`.
    """
    if mode == "exact":
        return torch.float32
    if device.type == "cpu":
        wanted = ("bfloat16" if bfloat16_pays() else "float32") if processor == "auto" else processor
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type != "cuda":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16:
        return torch.bfloat16
    return torch.float16 if capability >= _TENSOR_CORES else torch.float32


@cache
def bfloat16_pays() -> bool:
    """Returns whether the processor multiplies bfloat16 in hardware, and as precisely as the format allows."""
    return _has_bfloat16() and _product_error() <= _MAX_ERROR


def _has_bfloat16() -> bool:
    """Returns whether the processor has AVX-512 BF16 or AMX; private in PyTorch, so a release without the query means no."""
    queries = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(query is not None and query() for query in queries)


def _product_error() -> float:
    """Returns the mean error of a product in bfloat16, relative to the mean of the true product."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, 256, generator=draw) for _ in range(2))
    true = x.double() @ y.double().T
    found = torch.nn.functional.linear(x.bfloat16(), y.bfloat16())
    return float((found.double() - true).abs().mean() / true.abs().mean())


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a format for reports and provenance.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
