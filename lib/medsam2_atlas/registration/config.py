"""Settings of registration; `configs/registration.yaml` has their values and reasons."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.methods import DEFAULT_METHOD, METHODS, OLD_NAMES


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError("the first value must be below the second one")
    return window


def _known_method(name: str) -> str:
    name = OLD_NAMES.get(name, name)
    if name not in METHODS:
        raise ValueError(f"choose from {', '.join(METHODS)}")
    return name


Window = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""A range: its min and max value."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkImageConfig(_Section):
    """The working grid of a CT, and the body on it."""

    min_length: float = Field(
        30.0,
        gt=0,
        description="mm; min extent along each axis, edges of voxels included: less of the trunk cannot be registered",
    )
    min_slices: int = Field(
        3, ge=2, description="min number of voxels along each axis: two thick slices register much worse than three"
    )
    smoothing: float = Field(
        0.4, ge=0, description="spacings; standard deviation of the smoothing before sampling, which prevents aliasing"
    )
    smooth_below: float = Field(
        0.75, ge=0, description="spacings; axes with shorter voxels are smoothed: longer voxels need no smoothing"
    )
    body_hu: float = Field(
        -300.0,
        description="HU; denser voxels may belong to the body. The value is between lung and fat, far from the noise of both",
    )
    min_body_share: float = Field(
        0.02, ge=0, le=1, description="min share of all voxels that are body; if there are fewer, the values are not HU"
    )
    body_margin: float = Field(
        20.0,
        ge=0,
        description="mm; margin around the body that is registered too: it shows the body's outline, but not the table",
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
    """Search for the position and the stretch along z."""

    weights: tuple[float, float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 8.0, 0.5),
        description="weights of the squared differences in air, fat, soft tissue, bone and body: bone has few voxels, but the "
        "clearest landmarks",
    )
    pixel_step: int = Field(
        2, ge=1, description="n: only every n-th row and column is compared, because each of them shows the position along z"
    )
    min_overlap: float = Field(
        0.35,
        gt=0,
        le=1,
        description="min share of the shorter scan that overlaps the longer one: a smaller overlap fits by chance",
    )
    min_slices: int = Field(4, ge=1, description="min number of overlapping coarse slices: fewer fit by chance")
    min_body: float = Field(
        0.3, ge=0, le=1, description="min share of body in a voxel of either image for the voxel to be compared"
    )
    scale: Window = Field(
        (0.7, 1.4),
        description="limits of the scaling along x and y: a child, a heavy patient; a value beyond them means a wrong outline",
    )
    stretch_penalty: float = Field(
        0.05,
        ge=0,
        description="cost per |ln| of the stretch along z divided by the scaling along x and y: bodies keep their proportions",
    )
    overlap_penalty: float = Field(
        0.08,
        ge=0,
        description="cost of no overlap, which falls linearly to 0 for a full overlap: among similar positions, the one with "
        "the larger overlap is right",
    )
    turned: float = Field(
        0.8,
        ge=0,
        description="half a turn around z is chosen if its cost is below this share of the upright cost: few files have a "
        "wrong patient position",
    )


class AffineConfig(_Section):
    """Gradient descent of the affine map, on two levels."""

    spacings: tuple[PositiveFloat, PositiveFloat] = Field((9.0, 6.0), description="mm; grid of each level")
    rates: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.02, 0.008), description="Adam's rate on each level; units of the parameters"
    )
    points: int = Field(40_000, ge=1000, description="approximate number of voxels compared: enough for twelve parameters")
    window: Window = Field(
        (-160.0, 240.0), description="HU; range that is compared, as 0..1, in addition to the tissue classes: soft tissue"
    )
    matrix_unit: float = Field(
        0.5,
        gt=0,
        description="change of a matrix entry per unit of its parameter: at the body's surface, it has about the effect of "
        "`shift_unit`",
    )
    shift_unit: float = Field(100.0, gt=0, description="mm per unit of a shift's parameter")
    matrix_penalty: float = Field(
        0.1, ge=0, description="weight of the sum of squares of the matrix parameters: a short scan hardly determines its scale"
    )


class FeatureConfig(_Section):
    """The features that the deformable stage compares. An atlas can store values from 0 to 1.5."""

    mind_window: Window = Field(
        (-250.0, 350.0),
        description="HU; range that the MIND descriptor compares: edges of lung and bone must not dominate edges of organs",
    )
    mind_dilation: int = Field(2, ge=1, description="voxels; distance to the compared neighbours")
    mind_radius: int = Field(1, ge=0, description="voxels; radius of the compared patches")
    air: float = Field(0.7, ge=0, le=1.5, description="weight of the class air: lung and bowel move")
    fat: float = Field(0.7, ge=0, le=1.5, description="weight of the class fat: its amount differs between patients")
    bone: float = Field(
        0.9, ge=0, le=1.5, description="weight of the class bone: bones are rigid, but ribs and pelvis differ in shape"
    )
    brightness: float = Field(
        1.5,
        ge=0,
        le=1.5,
        description="weight of the HU in `brightness_window`, as 0..1: only these distinguish organs from each other",
    )
    brightness_window: Window = Field((-100.0, 200.0), description="HU; from fat to enhanced organs")
    fluid_window: Window = Field((-15.0, 25.0), description="HU; contents of bladder, gallbladder and stomach")
    fluid_width: float = Field(
        6.0, gt=0, description="HU; width of that window's borders: soft, because noise moves voxels across them"
    )


class DeformableConfig(_Section):
    """Coupled-convex search and continuous refinement."""

    coupling: tuple[float, ...] = Field(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        description="weights of the distance to the smooth field, one per round; as published",
    )
    min_seen: float = Field(
        0.5, ge=0, le=1, description="min share of a cell's voxels inside the moving image for the cell's cost to count"
    )
    cost_smoothings: int = Field(2, ge=0, description="number of box means that smooth the costs of the search")
    inverse_rounds: int = Field(12, ge=0, description="rounds that make the two directions inverse to each other")
    rate: float = Field(1.0, gt=0, description="voxels of the refinement's grid; Adam's rate")
    half_from: int = Field(
        16,
        ge=1,
        description="voxels; min length of the shortest axis for a refinement at half resolution: smaller images have too "
        "few voxels",
    )
    field_smoothings: int = Field(
        3,
        ge=0,
        description="number of box means that smooth the field before it is applied: close to a Gaussian",
    )
    max_folding: float = Field(
        0.004, ge=0, le=1, description="max share of grid cells that may fold; a field with more folds is smoothed"
    )
    max_smoothings: int = Field(
        12, ge=0, description="max number of times that such a field is smoothed, by two box means each; few fields need it"
    )


class GroupConfig(_Section):
    """The common space of several images."""

    rounds: int = Field(
        3,
        ge=1,
        description="one affine round, then deformable rounds: the second round gives a sharper mean, and the third fits it",
    )
    min_coverage: float = Field(
        0.2,
        gt=0,
        le=1,
        description="min share of the images that cover a voxel of their mean: a mean of fewer would show single patients",
    )
    long_share: float = Field(
        0.85,
        gt=0,
        le=1,
        description="min length of the first template, as a share of the longest scan: long scans show the most anatomy",
    )


class AdamConfig(_Section):
    """Adam's method (Kingma and Ba, ICLR 2015), with the values of the paper."""

    mean_decay: float = Field(0.9, ge=0, lt=1, description="decay of the running mean of gradients (β₁)")
    square_decay: float = Field(0.999, ge=0, lt=1, description="decay of the running mean of squared gradients (β₂)")


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
"""Parameters that are always stored. The other parameters are stored only if they differ from their defaults."""


class RegistrationConfig(BaseModel):
    """Parameters of pre-alignment, affine and deformable registration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: float = Field(
        4.0,
        gt=0,
        description="mm; grid of the deformable stage and of the common space: half this spacing takes eight times as long",
    )
    coarse_spacing: float = Field(9.0, gt=0, description="mm; grid of the search along z: still separates vertebrae")
    z_scales: tuple[PositiveFloat, ...] = Field(
        (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25), description="stretches tried along z: adults of different height"
    )
    affine_steps: tuple[int, int] = Field(
        (50, 25), description="Adam steps on each affine level: the second level starts near the optimum"
    )
    cell: int = Field(
        4, ge=1, description="voxels per cell of the discrete search: 16 mm. Smaller cells take longer and gain little"
    )
    reach: int = Field(3, ge=0, description="cells searched to each side: 48 mm. 0 omits the discrete stage")
    adam_steps: int = Field(
        60,
        ge=0,
        description="steps of the continuous refinement, which starts near the optimum; twice as many gain nothing",
    )
    smoothness: float = Field(
        1.0,
        ge=0,
        description="weight of the displacement's squared gradient: a higher weight reduces the organs' overlap, a lower one "
        "misplaces them",
    )
    class_weight: float = Field(
        2.0,
        ge=0,
        description="weight of the HU classes relative to the MIND descriptor: the classes distinguish fat from organs, the "
        "descriptor shows borders",
    )
    method: Annotated[str, AfterValidator(_known_method)] = Field(
        DEFAULT_METHOD,
        description="`keypoints` (FROG, Agier et al. 2020), `dense` (ConvexAdam; earlier name: `convex_adam`), or `both`: "
        "the dense deformable stage starts from the keypoints",
    )
    image: WorkImageConfig = WorkImageConfig.model_validate({})
    tissue: TissueConfig = TissueConfig.model_validate({})
    prealign: PrealignConfig = PrealignConfig.model_validate({})
    affine: AffineConfig = AffineConfig.model_validate({})
    features: FeatureConfig = FeatureConfig.model_validate({})
    deformable: DeformableConfig = DeformableConfig.model_validate({})
    group: GroupConfig = GroupConfig.model_validate({})
    adam: AdamConfig = AdamConfig.model_validate({})
    keypoints: KeypointConfig = KeypointConfig.model_validate({})

    @property
    def identity(self) -> str:
        """The text that identifies a set of parameters in the keys of stored registrations.

        A parameter outside `_FLAT` counts only if it differs from its default, so that a new parameter changes no key. If you
        change a default, add the parameter to `_FLAT`: registrations stored under the old default then no longer match.
        """
        changed = self.model_dump_json(exclude=_FLAT, exclude_defaults=True)
        return self.model_dump_json(include=_FLAT) + (changed if changed != "{}" else "")

    @property
    def digest(self) -> str:
        """The first eight hexadecimal digits of the SHA-256 of `identity`."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:8]

    def record(self) -> dict[str, Any]:
        """Returns the parameters in `identity`, for `atlas.json`."""
        return self.model_dump(mode="json", include=_FLAT) | self.model_dump(mode="json", exclude=_FLAT, exclude_defaults=True)


@read_once
def registration_config(file: Path | None = None) -> RegistrationConfig:
    """Returns the parameters in `configs/registration.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid parameters.
    """
    return read_config(RegistrationConfig, file or resource("configs/registration.yaml"), "registration configuration")
