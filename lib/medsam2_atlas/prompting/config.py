"""Settings of prompting; values in `configs/prompting.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource

Place = Annotated[float, Field(ge=0, le=1)]


class PromptingConfig(Settings):
    """How score maps and label maps become prompts.

    Published values are those of the method's paper (strategies A, B and D).
    """

    one_box: tuple[Place] = Field(
        (0.5,), description="share of the range of slices (0: its first, 1: its last) at which strategy A's box lies; published"
    )
    three_boxes: tuple[Place, Place, Place] = Field(
        (0.25, 0.5, 0.75), description="shares of the range of slices at which the other strategies' boxes lie; published"
    )
    min_visible: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the organ in the field of view; with less, it gets no prompt: nearly all of it lies outside",
    )
    min_fully_imaged: float = Field(
        0.95,
        ge=0,
        le=1,
        description="share of the organ in the field of view; with less, its prompt has a note: the scan cuts the organ",
    )
    min_score: float = Field(
        0.05,
        ge=0,
        le=1,
        description="highest score of a map; with less, hardly any reference has the organ there, and it gets no prompt",
    )
    box_area_factor: float = Field(1.1, gt=0, description="factor by which strategies D and E enlarge a box's area; published")
    range_growth: float = Field(
        0.2,
        ge=0,
        description="share of its length by which strategies D and E lengthen a range, half of it at each end; published",
    )
    min_unet_cases: int = Field(
        8,
        ge=0,
        description="training cases of an organ; with fewer, one or two of them validate, and the U-Net's Dice is not trusted",
    )


@cache
def prompting_config(file: Path | None = None) -> PromptingConfig:
    """Returns the settings in `configs/prompting.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(PromptingConfig, file or resource("configs/prompting.yaml"), "prompting configuration")
