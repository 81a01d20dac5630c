"""Settings of a trained U-Net's inference; values in `configs/unet.yaml`.

Unlike `UNetConfig`, they are not stored in the weights file and can be changed without training again.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class UNetInferenceConfig(Settings):
    """Settings of a trained U-Net's inference."""

    variants: tuple[tuple[float, float], ...] = Field(
        ((6.0, 1.0), (-6.0, 1.0), (0.0, 1.07), (0.0, 0.93)),
        description="test-time augmentation: rotation about the patient's long axis (degrees) and scale of each additional "
        "copy. Both are within the range of the training. Copies are not mirrored, because mirroring would turn a left kidney "
        "into a right one",
    )
    min_probability: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="a class is skipped on slices of the network's grid on which its max probability does not exceed this "
        "value: it cannot have the highest probability at any voxel there, and resampling it would only take time",
    )
    window_batch: int = Field(
        8, ge=1, description="batch size of two-dimensional windows; 1 is used if the GPU runs out of memory"
    )
    reduced_slices: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of a three-dimensional window's slices that is kept in the smallest steps of the memory ladder; "
        "with half of them, the demo U-Net's mean Dice fell by .02 to .07 on phantoms",
    )


@read_once
def unet_inference_config(file: Path | None = None) -> UNetInferenceConfig:
    """Reads the settings from a file, by default `configs/unet.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(UNetInferenceConfig, file or resource("configs/unet.yaml"), "configuration of U-Nets' inference")
