"""Settings of MedSAM2's inference; values in `configs/medsam2.yaml`. Networks are described in `configs/medsam2/`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field, model_validator

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class MedSAM2Config(Settings):
    """How MedSAM2 sees a CT, and how much it does at once.

    Batches cost memory and save time; results differ by rounding only.
    """

    window: tuple[float, float] = Field(
        (-100.0, 500.0), description="HU that become 0 and 255, beyond is clipped; MedSAM2 was trained with these"
    )
    batch: int = Field(
        16,
        ge=1,
        description="organs and directions that take a step together; 1 repeats the official predictor's arithmetic to the "
        "last digits, more is faster",
    )
    encoder_batch: int = Field(4, ge=1, description="slices that are encoded together; more take more memory")
    small_batch: int = Field(4, ge=1, description="as batch, when the GPU's memory is short; 1 when it is still too little")
    small_encoder_batch: int = Field(2, ge=1, description="as encoder_batch, when the GPU's memory is short; 1 as above")

    @model_validator(mode="after")
    def _ordered(self) -> MedSAM2Config:
        if not self.window[0] < self.window[1]:
            raise ValueError("window: the lower bound comes first")
        return self

    def batches(self, memory: Memory) -> tuple[int, int]:
        """Returns how many organs and directions take a step together, and how many slices are encoded together."""
        sizes = {"small": (self.small_batch, self.small_encoder_batch), "smallest": (1, 1)}
        return sizes.get(memory, (self.batch, self.encoder_batch))


@cache
def medsam2_config(file: Path | None = None) -> MedSAM2Config:
    """Returns the settings in `configs/medsam2.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(MedSAM2Config, file or resource("configs/medsam2.yaml"), "configuration of MedSAM2")
