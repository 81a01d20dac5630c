"""Decides the number format of MedSAM2's engine: float32, or 16 bits on a GPU in fast mode.

Exact mode computes in float32 everywhere. In fast mode on a GPU, matrix products and convolutions run in bfloat16, which has
the range of float32. Cards without bfloat16 arithmetic use float16. Cards without tensor cores use float32, because float16 is
not faster there.
"""

from __future__ import annotations

import torch

from medsam2_atlas.base.choices import Mode

_BFLOAT16 = (8, 0)
"""The first compute capability with bfloat16 arithmetic: Ampere."""
_TENSOR_CORES = (7, 0)
"""The first compute capability with tensor cores: Volta."""


def engine_dtype(device: torch.device, mode: Mode) -> torch.dtype:
    """Returns the format in which the engine's matrix products and convolutions run.

    Args:
        device: the device of the network.
        mode: the engine's mode.

    Returns:
        `float32`, or on a GPU in fast mode `bfloat16` or `float16`.
    """
    if device.type != "cuda" or mode == "exact":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16:
        return torch.bfloat16
    return torch.float16 if capability >= _TENSOR_CORES else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a format for reports and provenance.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
