"""Estimates a target's sex, so that only references of that sex vote on organ 15: a prostate or a uterus.

A prostate lies below the bladder, a uterus behind and above it. The mean of both is neither. The target is compared with the
references of each sex in the common space: by the squared difference of HU, as in the weights of label fusion, averaged over
the voxels where the maps of bladder and organ 15 of both sexes differ. The sex with the smaller difference is assumed. If an
atlas has references of one sex only, or if the difference between the sexes is small, the references of both sexes vote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from medsam2_atlas.atlas.reference import MAP_SPACING, NO_VOXEL, Reference, map_shape
from medsam2_atlas.base.choices import Sex
from medsam2_atlas.base.configuration import Settings
from medsam2_atlas.imaging.cropped_map import box_around, lower_corner, shape_of
from medsam2_atlas.registration import WorkImage, grid_points, sample

SEXES: tuple[Sex, Sex] = ("female", "male")
BLADDER, PROSTATE_OR_UTERUS = 14, 15
"""The organ numbers in AMOS22's order."""
_VALID = 0.99
"""Interpolated validity above which a voxel has only valid neighbours."""


class SexConfig(Settings):
    """How a target's sex is estimated."""

    enabled: bool = Field(True, description="whether only references of the target's estimated sex vote on organ 15")
    min_certainty: float = Field(
        0.8, ge=0.5, le=1, description="min certainty of the estimate; below it, the references of both sexes vote"
    )
    min_hu: float = Field(-160.0, description="HU that count as 0; lower values too, so that fat and air are not compared")
    max_hu: float = Field(
        120.0, description="HU that count as 1; higher values too, so that contrast and bone are not compared"
    )
    scale: float = Field(
        0.02,
        gt=0,
        description="difference between the mean squared differences of both sexes, in HU scaled to 0..1, that multiplies the "
        "odds by e",
    )


@dataclass(frozen=True)
class AssumedSex:
    """The sex whose references vote on organ 15. It is an assumption of the method, not a finding about the patient.

    Attributes:
        sex: the sex whose references resemble the target more.
        certainty: an estimate of its probability, 0.5..1.
        used: whether it is certain enough, so that only its references vote on organ 15.
    """

    sex: Sex
    certainty: float
    used: bool


def sex_of(
    hu: torch.Tensor, valid: torch.Tensor, references: Sequence[Reference], template: WorkImage, config: SexConfig
) -> AssumedSex | None:
    """Estimates the sex of a target from references in the common space.

    Args:
        hu: the target in HU, `[z, y, x]` on the template's grid.
        valid: `[z, y, x]` bool, True where the target has voxels.
        references: the references that vote.
        template: the mean image of the common space.
        config: the settings.

    Returns:
        The estimate; None if it is disabled, if the references have one sex only, or if the target does not show the region.
    """
    groups = {s: [r for r in references if r.sex == s and {BLADDER, PROSTATE_OR_UTERUS} <= r.shares.keys()] for s in SEXES}
    if not config.enabled or not all(groups.values()):
        return None
    shares = [r.shares[k] for group in groups.values() for r in group for k in (BLADDER, PROSTATE_OR_UTERUS)]
    box = box_around(shares, np.zeros(3), map_shape(template))
    first = template.origin + torch.tensor(lower_corner(box)[::-1]) * MAP_SPACING
    points = grid_points(torch.Size(shape_of(box)), first, MAP_SPACING)

    def here(image: torch.Tensor) -> np.ndarray:
        values: np.ndarray = sample(image.float()[None], points, template.origin, template.spacing)[0].numpy()
        return values

    pictures, maps = {}, {}
    for sex, group in groups.items():
        seen = [reference.on_template for reference in group]
        pictures[sex] = [(here(picture.clamp(min=NO_VOXEL + 1)), here(inside) > _VALID) for picture, inside in seen]
        organs = (BLADDER, PROSTATE_OR_UTERUS)
        maps[sex] = [np.mean([r.shares[k].probabilities(box) for r in group], axis=0) for k in organs]
    return estimated_sex(here(hu), here(valid) > _VALID, pictures, maps, config)


def estimated_sex(
    target: np.ndarray,
    valid: np.ndarray,
    pictures: Mapping[Sex, Sequence[tuple[np.ndarray, np.ndarray]]],
    maps: Mapping[Sex, Sequence[np.ndarray]],
    config: SexConfig,
) -> AssumedSex | None:
    """Estimates a target's sex by comparing it with the references of both sexes.

    Args:
        target: the target in HU, `[z, y, x]` in the common space.
        valid: `[z, y, x]` bool, True where the target has voxels.
        pictures: for each sex, HU and validity of each reference, both `[z, y, x]`.
        maps: for each sex, the mean maps of bladder and organ 15, each `[z, y, x]`, 0..1.
        config: the settings.

    Returns:
        The estimate; None if target and references of a sex have no voxel in common where the maps differ.
    """
    differing = np.sum([np.abs(a - b) for a, b in zip(*(maps[sex] for sex in SEXES), strict=True)], axis=0) * valid
    errors = []
    for sex in SEXES:
        total = weight = 0.0
        for hu, seen in pictures[sex]:
            weights = differing * seen
            total += float((weights * (_scaled(target, config) - _scaled(hu, config)) ** 2).sum())
            weight += float(weights.sum())
        if weight == 0:
            return None
        errors.append(total / weight)
    odds = (errors[1] - errors[0]) / config.scale
    certainty = 1 / (1 + math.exp(-min(abs(odds), 30.0)))
    return AssumedSex(SEXES[0] if odds > 0 else SEXES[1], round(certainty, 3), certainty >= config.min_certainty)


def _scaled(hu: np.ndarray, config: SexConfig) -> np.ndarray:
    return (np.clip(hu, config.min_hu, config.max_hu) - config.min_hu) / (config.max_hu - config.min_hu)
