"""Describes the engine, for reports and `medsam2-atlas doctor`."""

from __future__ import annotations

import torch

from medsam2_atlas.medsam2 import linear


def describe_engine(device: torch.device) -> str:
    """Returns the library of the network's matrix products on a device and, on the CPU, the measured rates.

    The first call on the CPU measures them (about 0.1 s), unless the engine already has.
    """
    return linear.describe() if device.type == "cpu" else "PyTorch"
