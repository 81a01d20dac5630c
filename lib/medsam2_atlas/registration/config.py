"""Settings of registration; values in `configs/registration.yaml`, with their reasons."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.resource import resource
from medsam2_atlas.registration.methods import METHODS


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError("the first value must be below the second one")
    return window


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"choose from {', '.join(METHODS)}")
    return name


Window = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""Lowest and highest value."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkImageConfig(_Section):
    """The working grid of a CT, and the body on it."""

    min_length: float = Field(
        30.0, gt=0, description="mm; of each axis, its voxels' own length included: less of the trunk cannot be registered"
    )
    min_slices: int = Field(
        3, ge=2, description="voxels along each axis: two thick slices are registered much worse than three"
    )
    smoothing: float = Field(
        0.4, ge=0, description="spacings; standard deviation of the smoothing before sampling, which prevents aliasing"
    )
    smooth_below: float = Field(
        0.75, ge=0, description="spacings; shorter voxels are smoothed: coarser ones have no detail to lose"
    )
    body_hu: float = Field(-300.0, description="HU; denser voxels may be body: between lung and fat, whatever the noise")
    min_body_share: float = Field(
        0.02, ge=0, le=1, description="share of all voxels that a body has; with less, values are no HU"
    )
    body_margin: float = Field(
        20.0, ge=0, description="mm around the body that are registered: its outline counts, the table does not"
    )


class TissueConfig(_Section):
    """Soft borders between air, fat, soft tissue and bone: sigmoids of HU."""

    fat_above: float = Field(-400.0, description="HU; border between air or lung and fat")
    fat_width: float = Field(60.0, gt=0, description="HU; width of that border: wide, since lung and air are noisy")
    soft_above: float = Field(-30.0, description="HU; border between fat (−100) and unenhanced organs (30)")
    soft_width: float = Field(15.0, gt=0, description="HU; width of that border")
    bone_above: float = Field(
        180.0, description="HU; border between soft tissue and bone or bright contrast: above most enhanced organs"
    )
    bone_width: float = Field(25.0, gt=0, description="HU; width of that border")


class PrealignConfig(_Section):
    """Search for place and stretch along z."""

    weights: tuple[float, float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 8.0, 0.5),
        description="of squared differences of air, fat, soft tissue, bone, body: bone has few voxels, but the clearest "
        "landmarks",
    )
    pixel_step: int = Field(2, ge=1, description="every n-th row and column is compared: any of them shows the place along z")
    min_overlap: float = Field(
        0.35, gt=0, le=1, description="share of the shorter scan that lies in the longer one: a smaller overlap fits by chance"
    )
    min_slices: int = Field(4, ge=1, description="coarse slices that overlap: fewer fit by chance")
    min_body: float = Field(0.3, ge=0, le=1, description="share of body in either image from which a voxel counts")
    scale: Window = Field(
        (0.7, 1.4),
        description="limits of the scaling along x and y: a child and a heavy patient; beyond them, the outline was not found",
    )
    stretch_penalty: float = Field(
        0.05, ge=0, description="cost per |ln| of the stretch along z over the scaling across: bodies keep their proportions"
    )
    overlap_penalty: float = Field(
        0.08,
        ge=0,
        description="cost of no overlap, falling linearly to 0 for a full one: of similar places, the larger overlap is right",
    )
    turned: float = Field(
        0.8, ge=0, description="share of the upright cost below which half a turn around z is taken: few files are that wrong"
    )


class AffineConfig(_Section):
    """Gradient descent of the affine map, on two levels."""

    spacings: tuple[PositiveFloat, PositiveFloat] = Field((9.0, 6.0), description="mm; grid of each level")
    rates: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.02, 0.008), description="Adam's rate on each level; units of the parameters"
    )
    points: int = Field(40_000, ge=1000, description="voxels that are compared, about: enough for twelve parameters")
    window: Window = Field((-160.0, 240.0), description="HU that are compared beside the tissue classes, as 0..1: soft tissue")
    matrix_unit: float = Field(
        0.5,
        gt=0,
        description="change of a matrix entry per unit of its parameter: about the effect of `shift_unit` at the body's "
        "surface",
    )
    shift_unit: float = Field(100.0, gt=0, description="mm per unit of a shift's parameter")
    matrix_penalty: float = Field(
        0.1, ge=0, description="weight of the matrix parameters' squared sum: a short scan says little about its scale"
    )


class FeatureConfig(_Section):
    """What the deformable stage compares. Values from 0 to 1.5 can be stored with an atlas."""

    mind_window: Window = Field(
        (-250.0, 350.0),
        description="HU that the MIND descriptor compares: edges of lung and bone do not dominate those of organs",
    )
    mind_dilation: int = Field(2, ge=1, description="voxels to the neighbours that are compared")
    mind_radius: int = Field(1, ge=0, description="voxels; half width of the compared patches")
    air: float = Field(0.7, ge=0, le=1.5, description="weight of the class air: lung and bowel move")
    fat: float = Field(0.7, ge=0, le=1.5, description="weight of the class fat: its amount differs between patients")
    bone: float = Field(0.9, ge=0, le=1.5, description="weight of the class bone: rigid, but ribs and pelvis differ in form")
    brightness: float = Field(
        1.5,
        ge=0,
        le=1.5,
        description="weight of the HU in `brightness_window`, as 0..1: organs differ from each other by this alone",
    )
    brightness_window: Window = Field((-100.0, 200.0), description="HU; fat to enhanced organs")
    fluid_window: Window = Field((-15.0, 25.0), description="HU of bladder, gallbladder and stomach")
    fluid_width: float = Field(
        6.0, gt=0, description="HU; width of that window's borders: soft, since noise moves voxels across them"
    )


class DeformableConfig(_Section):
    """Coupled-convex search and continuous refinement."""

    coupling: tuple[float, ...] = Field(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), description="weights of the distance to the smooth field, one a round; as published"
    )
    min_seen: float = Field(
        0.5, ge=0, le=1, description="share of a cell's voxels within the moving image from which its cost counts"
    )
    cost_smoothings: int = Field(2, ge=0, description="box means of the search's costs")
    inverse_rounds: int = Field(12, ge=0, description="rounds that make both directions inverse to each other")
    rate: float = Field(1.0, gt=0, description="Adam's rate; voxels of the refinement's grid")
    half_from: int = Field(
        16,
        ge=1,
        description="voxels of the shortest axis from which the refinement runs at half resolution: smaller images have "
        "too few",
    )
    field_smoothings: int = Field(3, ge=0, description="box means of the field before it is applied: about a Gaussian")
    max_folding: float = Field(0.004, ge=0, le=1, description="share of cells that may fold: hardly a voxel")
    max_smoothings: int = Field(12, ge=0, description="twofold box means of a field that folds more; few need one")


class GroupConfig(_Section):
    """The common space of several images."""

    rounds: int = Field(
        3, ge=1, description="one affine round, then deformable ones: the second one's mean is sharper, and the third fits it"
    )
    min_coverage: float = Field(
        0.2, gt=0, le=1, description="share of the images that show a voxel of their mean: means of fewer show single patients"
    )
    long_share: float = Field(
        0.85,
        gt=0,
        le=1,
        description="min length of the first template, as a share of the longest scan's: long scans show the most anatomy",
    )


class AdamConfig(_Section):
    """Adam's method (Kingma and Ba, ICLR 2015), with the values of its paper."""

    mean_decay: float = Field(0.9, ge=0, lt=1, description="of the running mean of gradients (β₁)")
    square_decay: float = Field(0.999, ge=0, lt=1, description="of the running mean of squared gradients (β₂)")


_FLAT = {
    "spacing",
    "coarse_spacing",
    "z_scales",
    "affine_steps",
    "cell",
    "reach",
    "adam_steps",
    "smoothness",
    "class_weight",
}
"""Parameters that were always part of what is stored; the others are stored where they differ from their defaults."""


class RegistrationConfig(BaseModel):
    """Parameters of pre-alignment, affine and deformable registration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: float = Field(
        4.0, gt=0, description="mm; grid of the deformable stage and of the common space: half of it takes eight times as long"
    )
    coarse_spacing: float = Field(9.0, gt=0, description="mm; grid of the search along z: vertebrae are still separate")
    z_scales: tuple[PositiveFloat, ...] = Field(
        (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25), description="stretches tried along z: adults of different height"
    )
    affine_steps: tuple[int, int] = Field(
        (50, 25), description="Adam steps on each affine level: the second one starts near its end"
    )
    cell: int = Field(
        4, ge=1, description="voxels per cell of the discrete search: 16 mm. Smaller cells take longer and gain little"
    )
    reach: int = Field(3, ge=0, description="cells searched to each side: 48 mm. 0 leaves the discrete stage out")
    adam_steps: int = Field(
        60, ge=0, description="steps of the continuous refinement, which starts near its end; twice as many gain nothing"
    )
    smoothness: float = Field(
        1.0, ge=0, description="weight of the displacement's squared gradient: more costs overlap, less the place of organs"
    )
    class_weight: float = Field(
        2.0,
        ge=0,
        description="weight of the HU classes beside the MIND descriptor: they distinguish fat from organs, it shows borders",
    )
    method: Annotated[str, AfterValidator(_known_method)] = Field(
        "convex_adam", description="one of `registration.methods.METHODS`"
    )
    image: WorkImageConfig = WorkImageConfig.model_validate({})
    tissue: TissueConfig = TissueConfig.model_validate({})
    prealign: PrealignConfig = PrealignConfig.model_validate({})
    affine: AffineConfig = AffineConfig.model_validate({})
    features: FeatureConfig = FeatureConfig.model_validate({})
    deformable: DeformableConfig = DeformableConfig.model_validate({})
    group: GroupConfig = GroupConfig.model_validate({})
    adam: AdamConfig = AdamConfig.model_validate({})

    @property
    def identity(self) -> str:
        """Returns a text that differs between sets of parameters, for keys of stored registrations.

        A parameter that is not in `_FLAT` counts only if it differs from its default, so that a new one changes no key. If a
        default changes, name the parameter in `_FLAT`: registrations that were stored under the old default are not found then.
        """
        changed = self.model_dump_json(exclude=_FLAT, exclude_defaults=True)
        return self.model_dump_json(include=_FLAT) + (changed if changed != "{}" else "")

    @property
    def digest(self) -> str:
        """Returns eight hexadecimal digits of the checksum of `identity`."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:8]

    def record(self) -> dict[str, Any]:
        """Returns the parameters that `identity` tells, for `atlas.json`."""
        return self.model_dump(mode="json", include=_FLAT) | self.model_dump(mode="json", exclude=_FLAT, exclude_defaults=True)


@cache
def registration_config(file: Path | None = None) -> RegistrationConfig:
    """Returns the parameters in `configs/registration.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid parameters.
    """
    return read_config(RegistrationConfig, file or resource("configs/registration.yaml"), "registration configuration")
