"""What a user may tune about the U-Nets; presets in `configs/unet/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource


class TrainingConfig(BaseModel):
    """How a U-Net is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, ge=1, description="times that each case is drawn from")
    patches_per_case: int = Field(2, ge=1, description="patches drawn from a case each time")
    cases_per_step: int = Field(1, ge=1, description="cases whose patches make one optimiser step")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW's, at the start; it falls to 0 along a cosine")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's")
    early_stop: int = Field(30, ge=0, description="validations without a better mean Dice after which training ends; 0: never")
    validate_every: int = Field(2, ge=1, description="epochs between validations")
    validation_share: float = Field(0.2, ge=0, lt=1, description="share of the cases that validate and never train")
    background_share: float = Field(0.1, ge=0, lt=1, description="patches centred on background; the rest evenly over organs")
    rotation: float = Field(12.0, ge=0, description="degrees, largest, about each axis")
    scaling: float = Field(0.15, ge=0, lt=1, description="largest relative change of size")
    seed: int = Field(0, description="of all random choices")


class AugmentationConfig(BaseModel):
    """Random changes of training patches, beside `rotation` and `scaling`: patients and scanners differ as much.

    Intensities are those of the network, 0 to 1 over the window of HU. Nothing mirrors: the left kidney is not a right one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: float = Field(0.7, ge=0, le=1, description="probability that a patch is rotated and scaled")
    resolution: float = Field(0.1, ge=0, le=1, description="probability of a lower resolution, as of thick slices")
    resolution_range: tuple[float, float] = Field((0.6, 1.0), description="factors of the resolution")
    blur: float = Field(0.15, ge=0, le=1, description="probability of smoothing, as by a soft kernel")
    blur_range: tuple[float, float] = Field((0.3, 0.9), description="voxels; standard deviations of the smoothing, each axis")
    noise: float = Field(0.3, ge=0, le=1, description="probability of Gaussian noise, as of a low dose")
    max_noise: float = Field(0.06, ge=0, description="largest standard deviation of the noise; 24 HU with the usual window")
    intensity_scale: float = Field(0.4, ge=0, le=1, description="probability that intensities are scaled, as by contrast agent")
    max_intensity_scale: float = Field(0.15, ge=0, description="largest relative change of intensities")
    intensity_shift: float = Field(0.4, ge=0, le=1, description="probability that intensities are shifted")
    max_intensity_shift: float = Field(0.08, ge=0, description="largest shift of intensities; 32 HU with the usual window")
    contrast: float = Field(0.3, ge=0, le=1, description="probability of another gamma")
    contrast_range: tuple[float, float] = Field((0.75, 1.35), description="gammas")


class LossConfig(BaseModel):
    """Weights of the training loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dice: float = Field(0.5, ge=0, le=1, description="share of soft Dice; the rest is cross entropy. Both alike, as in nnU-Net")
    head_decay: float = Field(
        0.5,
        gt=0,
        le=1,
        description="weight of each head of deep supervision, as a factor of the next finer one's; as in nnU-Net",
    )


class UNetConfig(BaseModel):
    """Network, grid and training of a U-Net. Axis order of `spacing` and `patch` is (x, y, z)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: int = Field(ge=2, le=3, description="2: axial slices; 3: volumes")
    spacing: tuple[float, float, float] = Field(description="mm (x, y, z) of the working grid; 0 keeps the image's own")
    patch: tuple[int, ...] = Field(description="voxels (x, y, z) that the network sees at a time; (x, y) in two dimensions")
    filters: tuple[int, ...] = Field(min_length=3, description="channels at each resolution, from fine to coarse")
    heads: int = Field(2, ge=0, description="coarser outputs that deep supervision trains too")
    window: tuple[float, float] = Field((-160.0, 240.0), description="HU that become 0 and 1; beyond is clipped")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="of neighbouring windows at inference")
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}), description="how it is trained")
    augmentation: AugmentationConfig = Field(
        default_factory=lambda: AugmentationConfig.model_validate({}), description="random changes of training patches"
    )
    loss: LossConfig = Field(default_factory=lambda: LossConfig.model_validate({}), description="weights of the training loss")

    @model_validator(mode="after")
    def _consistent(self) -> UNetConfig:
        if len(self.patch) != self.dimensions:
            raise ValueError(f"patch needs {self.dimensions} sides")
        step = 2 ** (len(self.filters) - 1)
        if any(side % step for side in self.patch):
            raise ValueError(f"each side of the patch must be a multiple of {step}: {len(self.filters)} resolutions")
        if not self.window[0] < self.window[1]:
            raise ValueError("window: the lower bound comes first")
        if self.heads > len(self.filters) - 2:
            raise ValueError(f"at most {len(self.filters) - 2} deep-supervision heads")
        return self


def unet_config(name: str | Path) -> UNetConfig:
    """Returns a preset of `configs/unet/` by name (`unet_3d`, `unet_2d`, `unet_3d_large`), or a YAML file.

    Raises:
        InputError: neither, or not valid.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        presets = {file.stem: file for file in resource("configs/unet").glob("*.yaml")}
        if str(name) not in presets:
            raise InputError(
                name, "is no U-Net configuration.", f"Choose from {', '.join(sorted(presets))}, or name a YAML file."
            )
        path = presets[str(name)]
    return read_config(UNetConfig, path, "U-Net configuration", "Compare it with configs/unet/.")


def same_network(a: UNetConfig, b: UNetConfig) -> bool:
    """Returns whether weights of one configuration fit the other: they may differ in their training only."""
    return a.model_copy(update={"training": b.training, "augmentation": b.augmentation, "loss": b.loss}) == b


def with_training(config: UNetConfig, changes: dict[str, Any]) -> UNetConfig:
    """Returns the configuration with some training options changed.

    Raises:
        InputError: an unknown option, or a value that does not fit.
    """
    try:
        training = TrainingConfig.model_validate(config.training.model_dump() | changes)
    except ValidationError as error:
        raise InputError(
            "training options", f"do not fit: {error}", f"Known: {', '.join(TrainingConfig.model_fields)}."
        ) from error
    return config.model_copy(update={"training": training})
