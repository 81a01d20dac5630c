"""Which HU an organ can have in a target: an organ is never bone or gas, whatever the contrast phase.

The histogram of an organ is estimated from the target under the organ's map. If the map lies in a vertebra, as after a
registration of a bright aorta to a CT without contrast, that estimate confirms the error. Physics limits what an organ can be:

- Solid organs and vessels contain no gas.
- Without contrast, blood and parenchyma have at most about 75 HU (liver 45 to 75; with iron or amiodarone up to about 110), so
  that brighter voxels are bone or calcium.

Spleen and kidneys take up contrast in every phase, and no bone lies inside them. The upper quartile of the HU under their maps
therefore tells whether the target has contrast, even if most of a map lies beside its organ. With contrast, vessels can be as
bright as bone, and HU alone exclude nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from medsam2_atlas.base.configuration import Settings
from medsam2_atlas.imaging.labels import organ_table


class TissueConfig(Settings):
    """The HU that organs can have."""

    enabled: bool = Field(True, description="whether impossible HU are excluded")
    enhancing: list[str] = Field(
        ["spleen", "right_kidney", "left_kidney"],
        description="organs that tell whether the target has contrast: they take it up in every phase",
    )
    hollow: list[str] = Field(
        ["gallbladder", "esophagus", "stomach", "duodenum", "bladder"],
        description="organs that can contain gas, stones, or swallowed or excreted contrast: nothing is excluded for them",
    )
    min_soft: float = Field(-20.0, description="HU; lower end of soft tissue with and without contrast")
    max_soft: float = Field(300.0, description="HU; upper end of soft tissue with contrast")
    quantile: float = Field(
        0.75, gt=0, lt=1, description="quantile of the soft tissue's HU under the maps of `enhancing` that is compared"
    )
    enhanced: float = Field(
        80.0,
        description="HU; quantile above which a target has contrast: 30 to 60 without, 110 to 190 with contrast",
    )
    max_unenhanced: float = Field(
        115.0, description="HU; max of a solid organ or vessel without contrast: higher values are bone or calcium"
    )
    min_solid: float = Field(-150.0, description="HU; min of a solid organ or vessel: lower values are gas, lung or skin")
    min_voxels: int = Field(
        200, ge=1, description="min number of voxels in the maps of `enhancing`; with fewer, contrast is unknown"
    )


def is_enhanced(hu: np.ndarray, weights: np.ndarray, config: TissueConfig) -> bool | None:
    """Returns whether a target has contrast, from the HU under the maps of `config.enhancing`; None if unknown.

    Args:
        hu: HU of voxels, `[n]`.
        weights: the voxels' scores, `[n]`, 0..1.
        config: the settings.
    """
    soft = (hu > config.min_soft) & (hu < config.max_soft) & (weights > 0)
    if soft.sum() < config.min_voxels:
        return None
    order = np.argsort(hu[soft])
    mass = np.cumsum(weights[soft][order])
    found = hu[soft][order][np.searchsorted(mass, mass[-1] * config.quantile)]
    return bool(found > config.enhanced)


def hu_limits(enhanced: bool | None, organ: int, config: TissueConfig) -> tuple[float, float]:
    """Returns the lowest and the highest HU that an organ can have.

    Args:
        enhanced: whether the target has contrast; None if unknown.
        organ: the organ number.
        config: the settings.
    """
    if not config.enabled or organ_table()[organ].name in config.hollow:
        return -np.inf, np.inf
    return config.min_solid, config.max_unenhanced if enhanced is False else np.inf


def possible_bins(limits: Mapping[int, tuple[float, float]], edges: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the bins of a histogram that contain possible HU, by organ number, each `[bins]` bool.

    Args:
        limits: the lowest and highest possible HU by organ number.
        edges: the bins' borders in HU, ascending, `[bins + 1]`; the outer bins are open.
    """
    lower, upper = np.r_[-np.inf, edges[1:-1]], np.r_[edges[1:-1], np.inf]
    return {k: (upper > low) & (lower < high) for k, (low, high) in limits.items()}
