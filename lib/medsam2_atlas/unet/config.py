"""Settings of the U-Nets: network, training, augmentation, and loss. The presets are in `configs/unet/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource


class TrainingConfig(BaseModel):
    """Settings of a U-Net's training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, ge=1, description="passes over the training cases")
    patches_per_case: int = Field(2, ge=1, description="patches drawn from each case per epoch")
    cases_per_step: int = Field(1, ge=1, description="cases whose patches form the batch of one optimiser step")
    learning_rate: float = Field(2e-3, gt=0, description="initial learning rate of AdamW; it decays to 0 along a cosine")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    early_stop: int = Field(
        30, ge=0, description="number of validations without a better mean Dice after which training ends; 0: never"
    )
    validate_every: int = Field(2, ge=1, description="epochs between validations")
    validation_share: float = Field(
        0.2, ge=0, lt=1, description="share of the cases used for validation; they are never used for training"
    )
    background_share: float = Field(
        0.1, ge=0, lt=1, description="share of patches centred on background; the others are spread evenly over the organs"
    )
    rotation: float = Field(12.0, ge=0, description="max rotation about each axis, in degrees")
    scaling: float = Field(0.15, ge=0, lt=1, description="max relative change of size")
    seed: int = Field(0, description="seed of all random choices")


class AugmentationConfig(BaseModel):
    """Random changes of training patches, in addition to `rotation` and `scaling`.

    They imitate the differences between patients and scanners. Intensities are the network's: 0..1 over the HU window. Patches
    are never mirrored, because mirroring would turn a left kidney into a right one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: float = Field(0.7, ge=0, le=1, description="probability that a patch is rotated and scaled")
    resolution: float = Field(0.1, ge=0, le=1, description="probability of a lower resolution; simulates thick slices")
    resolution_range: tuple[float, float] = Field((0.6, 1.0), description="min and max factor of the resolution")
    blur: float = Field(0.15, ge=0, le=1, description="probability of smoothing; simulates a soft reconstruction kernel")
    blur_range: tuple[float, float] = Field(
        (0.3, 0.9), description="min and max standard deviation of the smoothing along each axis, in voxels"
    )
    noise: float = Field(0.3, ge=0, le=1, description="probability of Gaussian noise; simulates a low dose")
    max_noise: float = Field(0.06, ge=0, description="max standard deviation of the noise; 24 HU with the default window")
    intensity_scale: float = Field(
        0.4, ge=0, le=1, description="probability that intensities are scaled; simulates contrast agent"
    )
    max_intensity_scale: float = Field(0.15, ge=0, description="max relative change of intensities")
    intensity_shift: float = Field(0.4, ge=0, le=1, description="probability that intensities are shifted")
    max_intensity_shift: float = Field(0.08, ge=0, description="max shift of intensities; 32 HU with the default window")
    contrast: float = Field(0.3, ge=0, le=1, description="probability of a random gamma")
    contrast_range: tuple[float, float] = Field((0.75, 1.35), description="min and max gamma")


class LossConfig(BaseModel):
    """Weights of the training loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dice: float = Field(
        0.5, ge=0, le=1, description="weight of soft Dice; the rest is cross entropy. Both weigh the same, as in nnU-Net"
    )
    head_decay: float = Field(
        0.5,
        gt=0,
        le=1,
        description="weight of each deep-supervision head relative to the next finer head; as in nnU-Net",
    )


class UNetConfig(BaseModel):
    """Network, grid and training of a U-Net. The axis order of `spacing`, `slice_pixels` and `patch` is (x, y, z)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: int = Field(ge=2, le=3, description="2: axial slices; 3: volumes")
    spacing: tuple[float, float, float] = Field(
        description="spacing (x, y, z) of the network's grid in mm; 0 keeps the image's own spacing"
    )
    slice_pixels: tuple[int, int] | None = Field(
        None,
        description="number of pixels (x, y) to which each slice is resampled, whatever its spacing. The network's grid then "
        "spans the CT's whole field of view, and x and y of `spacing` must be 0. By default, `spacing` determines the grid, "
        "which is cropped to the body",
    )
    patch: tuple[int, ...] = Field(description="size (x, y, z) of the network's input in voxels; (x, y) in two dimensions")
    filters: tuple[int, ...] = Field(min_length=3, description="channels at each resolution, from fine to coarse")
    heads: int = Field(2, ge=0, description="number of coarser outputs that deep supervision also trains")
    window: tuple[float, float] = Field(
        (-160.0, 240.0), description="HU values that become 0 and 1; values outside are clipped"
    )
    overlap: float = Field(0.25, ge=0, lt=0.9, description="overlap of neighbouring windows at inference, as a fraction")
    training: TrainingConfig = Field(
        default_factory=lambda: TrainingConfig.model_validate({}), description="settings of the training"
    )
    augmentation: AugmentationConfig = Field(
        default_factory=lambda: AugmentationConfig.model_validate({}), description="random changes of training patches"
    )
    loss: LossConfig = Field(default_factory=lambda: LossConfig.model_validate({}), description="weights of the training loss")

    @model_validator(mode="after")
    def _consistent(self) -> UNetConfig:
        if len(self.patch) != self.dimensions:
            raise ValueError(f"patch: {self.dimensions} sides are needed")
        step = 2 ** (len(self.filters) - 1)
        if any(side % step for side in self.patch):
            raise ValueError(
                f"patch: each side must be a multiple of {step}, because filters lists {len(self.filters)} resolutions"
            )
        if self.slice_pixels is not None:
            if any(self.spacing[:2]):
                raise ValueError("spacing: x and y must be 0, because slice_pixels determines the size of pixels")
            if any(side > pixels for side, pixels in zip(self.patch[:2], self.slice_pixels, strict=True)):
                raise ValueError("patch: x and y must not be larger than slice_pixels")
        if not self.window[0] < self.window[1]:
            raise ValueError("window: the lower bound must come before the upper bound")
        if self.heads > len(self.filters) - 2:
            raise ValueError(f"heads: at most {len(self.filters) - 2} are possible with {len(self.filters)} filters")
        return self


def unet_config(name: str | Path) -> UNetConfig:
    """Reads a preset of `configs/unet/` by its name, such as `unet_3d` or `unet_2d_published`, or a YAML file by its path.

    Raises:
        InputError: if the name is neither a preset nor a file, or the file is not valid.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        presets = {file.stem: file for file in resource("configs/unet").glob("*.yaml")}
        if str(name) not in presets:
            raise InputError(
                name, "is not a U-Net configuration.", f"Choose from {', '.join(sorted(presets))}, or name a YAML file."
            )
        path = presets[str(name)]
    return read_config(UNetConfig, path, "U-Net configuration", "Compare it with configs/unet/.")


def same_network(a: UNetConfig, b: UNetConfig) -> bool:
    """Returns whether weights of one configuration fit the other; settings of training, augmentation and loss may differ."""
    return a.model_copy(update={"training": b.training, "augmentation": b.augmentation, "loss": b.loss}) == b


def with_training(config: UNetConfig, changes: dict[str, Any]) -> UNetConfig:
    """Returns the configuration with some training options changed (name to new value).

    Raises:
        InputError: if an option is unknown or its value is not allowed.
    """
    try:
        training = TrainingConfig.model_validate(config.training.model_dump() | changes)
    except ValidationError as error:
        raise InputError(
            "training options", f"are not valid: {error}", f"Known: {', '.join(TrainingConfig.model_fields)}."
        ) from error
    return config.model_copy(update={"training": training})
