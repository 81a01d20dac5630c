"""Settings of a trained U-Net's inference; values in `configs/unet.yaml`.

They are not part of the weights' file, as `UNetConfig` is: they may be changed without a new training.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class UNetInferenceConfig(Settings):
    """How a trained U-Net segments a CT."""

    variants: tuple[tuple[float, float], ...] = Field(
        ((6.0, 1.0), (-6.0, 1.0), (0.0, 1.07), (0.0, 0.93)),
        description="test-time augmentation: degrees about the patient's long axis and scale of each further copy; within what"
        " training does, and without mirroring, since the left kidney is not a right one",
    )
    min_probability: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="highest probability of a class on a slice of the network's grid; with less, it wins nowhere, and "
        "enlarging it to the image's grid would only take time",
    )
    window_batch: int = Field(
        8, ge=1, description="two-dimensional windows that the network takes together; 1 if the GPU's memory is short"
    )
    reduced_slices: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of a three-dimensional window's slices that is left in the smallest steps; with half of them, the "
        "demo U-Net's mean Dice fell by .02 to .07 on phantoms",
    )


@cache
def unet_inference_config(file: Path | None = None) -> UNetInferenceConfig:
    """Returns the settings in `configs/unet.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(UNetInferenceConfig, file or resource("configs/unet.yaml"), "configuration of U-Nets' inference")
