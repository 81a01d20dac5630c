"""Published figures of the method: Dice, energy, times and machine, for comparison with new experiments.

`configs/published.yaml` has the figures. Their source is the report on automatic prompting of MedSAM2 by registration
(CREATIS, 2025): tables 2.2 (Dice) and 2.3 (thresholds), and its text. U-Nets and strategies have the names of segmenters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import organ_table

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(gt=0)]
Figure = tuple[Share, Share | None]
"""A mean and its standard deviation; None if the deviation was not published."""
BySegmenter = dict[str, Amount]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedCases(_Facts):
    """Numbers of AMOS22 CTs in the published experiment."""

    tests: int = Field(ge=1, description="CTs that were segmented")
    references: int = Field(ge=1, description="references of the atlas")
    unet_training: int = Field(ge=1, description="CTs that trained the U-Nets")


class PublishedEnergy(_Facts):
    """Published emissions, as CO₂ equivalents."""

    training_kg: BySegmenter = Field(description="kg; training, as the computing centre estimates it")
    case_g: BySegmenter = Field(description="g; one case, measured by CodeCarbon; `cascade` is the prompted method")
    case_size: tuple[int, int, int] = Field(description="voxels (x, y, z) of the measured case")
    unet_size: tuple[int, int, int] = Field(description="voxels (x, y, z) of that case in the input of the U-Nets")
    break_even_cases: int = Field(ge=1, description="cases for which the cascade emits about as much as a U-Net's training")


class PublishedTime(_Facts):
    """Published times, all approximate."""

    training_h: BySegmenter = Field(description="hours; training of a U-Net")
    registration_s: float = Field(gt=0, description="seconds a case; registration and warping of the label maps")
    medsam2_s: float = Field(gt=0, description="seconds a case; MedSAM2")
    max_unet_s: float = Field(gt=0, description="seconds a case; upper bound for the U-Nets")


class PublishedMachine(_Facts):
    """The machine on which cases were segmented."""

    cpu: str
    cores: int
    memory_gb: float
    gpu: str
    gpu_memory_gb: float
    system: str


class CentreError(_Facts):
    """Published mean error of the prompting regions' centres, in mm."""

    registration: float = Field(gt=0, description="mm; prompts from registration, as in strategies A and B")
    detector: float = Field(gt=0, description="mm; prompts of a detector that was trained for them")


class Published(_Facts):
    """All published figures."""

    source: str
    cases: PublishedCases
    dice_by_organ: dict[str, dict[str, Figure]] = Field(
        alias="dice", description="mean Dice and its deviation between cases, by organ and segmenter"
    )
    means: dict[str, Figure] = Field(description="mean over the organs and its deviation between organs, by segmenter")
    detector_dice: float = Field(ge=0, le=1, description="mean Dice of MedSAM2 with a trained detector's prompts")
    thresholds: dict[str, Share] = Field(description="threshold of the score map, by organ")
    centre_error_mm: CentreError
    energy: PublishedEnergy
    time: PublishedTime
    machine: PublishedMachine
    not_told: tuple[str, ...] = Field(description="facts that the report does not state")

    @model_validator(mode="after")
    def _complete(self) -> Published:
        if set(self.thresholds) != set(self.dice_by_organ):
            raise ValueError("dice and thresholds have different organs")
        for organ, row in self.dice_by_organ.items():
            if set(row) != set(self.means):
                raise ValueError(f"dice.{organ} and means have different segmenters")
        return self

    @property
    def segmenters(self) -> tuple[str, ...]:
        """The names of the segmenters with published Dice, in the order of the report's table."""
        return tuple(self.means)

    def dice(self, segmenter: str, organ: int) -> Figure | None:
        """Returns the mean Dice of an organ and its standard deviation between cases; None if nothing was published.

        The deviation is None for the U-Nets.

        Args:
            segmenter: the name of the segmenter.
            organ: the organ number.
        """
        names = {entry.index: entry.name for entry in organ_table().organs}
        return self.dice_by_organ.get(names.get(organ, ""), {}).get(segmenter)

    def mean(self, segmenter: str) -> Figure | None:
        """Returns the mean Dice over the organs and its standard deviation between organs; None if nothing was published.

        Args:
            segmenter: the name of the segmenter.
        """
        return self.means.get(segmenter)

    def threshold(self, organ: int) -> float | None:
        """Returns the published threshold of an organ's score map; None if nothing was published.

        Args:
            organ: the organ number.
        """
        names = {entry.index: entry.name for entry in organ_table().organs}
        return self.thresholds.get(names.get(organ, ""))


@read_once
def published(file: Path | None = None) -> Published:
    """Returns the figures in `configs/published.yaml`, or in another file.

    Raises:
        InputError: the file does not contain all figures.
    """
    return read_config(
        Published,
        file or resource("configs/published.yaml"),
        "file of published figures",
        "Restore configs/published.yaml from the project.",
    )
