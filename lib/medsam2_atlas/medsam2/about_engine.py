"""Describes the engine, for reports and `medsam2-atlas doctor`."""

from __future__ import annotations

from typing import TypedDict

import torch

from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.precision import ProcessorFormat
from medsam2_atlas.medsam2 import linear
from medsam2_atlas.medsam2.config import medsam2_config


class EngineMode(TypedDict):
    """The arguments of `memory.ran_on` that the engine's precision depends on."""

    mode: Mode
    processor: ProcessorFormat


def engine_mode(mode: Mode) -> EngineMode:
    """Returns a mode and the configured format of fast mode on the processor, as `memory.ran_on` needs them."""
    return EngineMode(mode=mode, processor=medsam2_config().fast_precision)


def describe_engine(device: torch.device) -> str:
    """Returns the library of the network's matrix products on a device and, on the CPU, the measured rates.

    The first call on the CPU measures them (about 0.1 s), unless the engine already has.
    """
    return linear.describe() if device.type == "cpu" else "PyTorch"
