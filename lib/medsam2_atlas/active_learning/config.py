"""Settings of the measures that choose the next case; values in `configs/active_learning.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class ActiveLearningConfig(Settings):
    """Weights of the parts of `uncertainty` and `novelty`; each part is 0 to 1."""

    min_visible: float = Field(
        0.05,
        ge=0,
        le=1,
        description="min share of the organ in the field of view; an organ with less is excluded, because it could not be "
        "annotated",
    )
    fallback_doubt: float = Field(
        0.25, ge=0, le=1, description="doubt that is added if a prompt needed a fallback, such as a box from another slice"
    )
    entropy_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the score map's entropy in uncertainty; the rest is the doubt about the prompt",
    )
    template_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the distance to the atlas' template in novelty; the rest is the distance to the most similar "
        "reference",
    )


@read_once
def active_learning_config(file: Path | None = None) -> ActiveLearningConfig:
    """Reads the settings from a file, by default `configs/active_learning.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(
        ActiveLearningConfig, file or resource("configs/active_learning.yaml"), "configuration of active learning"
    )
