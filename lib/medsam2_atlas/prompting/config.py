"""Settings of prompting; `configs/prompting.yaml` has their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource

Place = Annotated[float, Field(ge=0, le=1)]


class PromptingConfig(Settings):
    """How score maps and label maps become prompts.

    Values marked as published are those of the method's paper (strategies A, B and D).
    """

    one_box: tuple[Place] = Field(
        (0.5,), description="position of strategy A's box in the range of slices (0: first slice, 1: last slice); published"
    )
    three_boxes: tuple[Place, Place, Place] = Field(
        (0.25, 0.5, 0.75), description="positions of the other strategies' boxes in the range of slices; published"
    )
    min_visible: float = Field(
        0.05,
        ge=0,
        le=1,
        description="min share of an organ inside the field of view for a prompt: with less, nearly all of it lies outside",
    )
    min_fully_imaged: float = Field(
        0.95,
        ge=0,
        le=1,
        description="min share of a fully imaged organ inside the field of view; with less, its prompt gets a note",
    )
    min_score: float = Field(
        0.05,
        ge=0,
        le=1,
        description="min value of a score map's maximum for a prompt: with less, hardly any reference has the organ at "
        "any position",
    )
    check_sides: bool = Field(
        True,
        description="whether only the more certain prompt is kept if a left and a right organ are on the wrong sides of each "
        "other: one of them is wrong",
    )
    box_area_factor: float = Field(
        1.1, gt=0, description="factor by which strategies D, E and F enlarge a box's area; published"
    )
    range_growth: float = Field(
        0.2,
        ge=0,
        description="growth of the range of slices in strategies D, E and F, as a share of the range, half at each end; "
        "published",
    )
    min_unet_cases: int = Field(
        8,
        ge=0,
        description="min number of an organ's training cases for trusting the U-Net's Dice: with fewer, it is measured on only "
        "one or two cases",
    )


@read_once
def prompting_config(file: Path | None = None) -> PromptingConfig:
    """Returns the settings in `configs/prompting.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(PromptingConfig, file or resource("configs/prompting.yaml"), "prompting configuration")
