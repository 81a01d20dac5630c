"""What a user may tune about registration; values in `configs/registration.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.resource import resource


class RegistrationConfig(BaseModel):
    """Parameters of pre-alignment, affine and deformable registration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: float = Field(4.0, gt=0, description="mm; grid of the deformable stage and of the common space")
    coarse_spacing: float = Field(9.0, gt=0, description="mm; grid of the z search")
    z_scales: tuple[float, ...] = Field((0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25), description="stretches tried along z")
    affine_steps: tuple[int, int] = Field((50, 25), description="Adam steps at 9 mm and at 6 mm")
    cell: int = Field(4, ge=1, description="voxels per cell of the discrete search")
    reach: int = Field(3, ge=0, description="cells searched to each side; 0 leaves the discrete stage out")
    adam_steps: int = Field(60, ge=0, description="steps of the continuous refinement")
    smoothness: float = Field(1.0, ge=0, description="weight of the displacement's squared gradient")
    class_weight: float = Field(2.0, ge=0, description="weight of HU-class maps beside the MIND descriptor")


@cache
def registration_config(file: Path | None = None) -> RegistrationConfig:
    """The parameters in `configs/registration.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid parameters.
    """
    return read_config(RegistrationConfig, file or resource("configs/registration.yaml"), "registration configuration")
