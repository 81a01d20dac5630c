"""The step `restore`: gives organs back the volume that a registration across contrast phases has taken from them.

Registration compares brightness. If an organ is bright with contrast in the references but not in the target, the deformation
that explains the target best makes the organ smaller: the mismatch covers fewer voxels. Aorta and kidneys shrink to about half
of their volume, and the intensities cannot bring back voxels outside the map's reach.

All other organs tell how much larger or smaller the target's organs are than the references': the median ratio of their volumes
in the target and in the common space. An organ that is brighter in the references by more than `min_brighter`, and smaller than
this ratio predicts, grows by its distance map to the predicted volume. It grows only into voxels whose HU it can have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.atlas.atlas import ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING
from medsam2_atlas.imaging.cropped_map import box_around, lower_corner
from medsam2_atlas.registration import WorkImage, grid_points, sample
from medsam2_atlas.scoremaps.intensities import HistogramConfig, Intensities
from medsam2_atlas.scoremaps.maps import ScoreMap
from medsam2_atlas.scoremaps.step import StepConfig
from medsam2_atlas.scoremaps.warping import Warped


class RestoreConfig(StepConfig):
    """How organs that lost contrast are restored."""

    min_brighter: float = Field(
        50.0,
        ge=0,
        description="HU; min excess of an organ's median in the references' mean image over its median in the target",
    )
    core: float = Field(0.5, gt=0, lt=1, description="share of a map's maximum above which these medians are taken")
    max_growth: float = Field(9.0, ge=0, description="mm; max growth of an organ's surface")
    score: float = Field(
        0.4,
        gt=0,
        le=1,
        description="score of added voxels, as a share of the map's maximum: below .5, so that the intensities decide",
    )
    edge: float = Field(3.0, gt=0, description="mm; width of the new border, from score 0 to the map's maximum")
    min_visible: float = Field(0.3, gt=0, le=1, description="min visible share of the organs whose volumes are compared")
    min_organs: int = Field(3, ge=1, description="min number of organs for the median ratio; with fewer, no organ is restored")


def restored(warped: Warped, histograms: HistogramConfig, config: RestoreConfig) -> Warped:
    """Returns the score maps with restored organs.

    Args:
        warped: the registered score maps.
        histograms: how HU are counted.
        config: the settings of the step, which runs only if a later step uses the target's intensities.
    """
    scores, atlas = warped.scores, warped.alignment.atlas
    intensities = warped.measured_intensities(histograms)
    voxel = float(np.prod(scores.reduced_spacing))
    ratios, faded = {}, []
    for k, score in scores.maps.items():
        common = float(atlas.maps[k].values.sum(dtype=np.int64)) * MAP_SPACING**3 * score.visible
        own = float(score.values.sum(dtype=np.int64)) * voxel
        if own and common and score.visible >= config.min_visible:
            ratios[k] = own / common
            if (
                _expected_hu(atlas.maps[k], atlas.template, config) - _found_hu(score, intensities, config)
                > config.min_brighter
            ):
                faded.append(k)
    others = [ratio for k, ratio in ratios.items() if k not in faded]
    if not faded or len(others) < config.min_organs:
        return replace(warped, intensities=intensities)
    typical = float(np.median(others))
    factors = {k: typical / ratios[k] for k in faded if ratios[k] < typical}
    maps = {k: _grown(scores.maps[k], k, f, intensities, scores.reduced_spacing, config) for k, f in factors.items()}
    growth = {k: float(np.log(factor)) for k, factor in factors.items()}
    return replace(warped, scores=replace(scores, maps={**scores.maps, **maps}), intensities=intensities, growth=growth)


def _expected_hu(organ: ProbabilityMap, template: WorkImage, config: RestoreConfig) -> float:
    weights = organ.as_tensor()[0]
    points = grid_points(weights.shape, torch.from_numpy(organ.origin), MAP_SPACING)
    core = weights > config.core * float(weights.max())
    return float(sample(template.hu[None], points[core], template.origin, template.spacing)[0].median())


def _found_hu(score: ScoreMap, intensities: Intensities, config: RestoreConfig) -> float:
    core = score.values > config.core * 255 * score.maximum
    edges = intensities.config.edges
    return float(np.median(((edges[:-1] + edges[1:]) / 2)[intensities.bins[score.spans][core]]))


def _grown(
    score: ScoreMap, organ: int, factor: float, intensities: Intensities, spacing: np.ndarray, config: RestoreConfig
) -> ScoreMap:
    """Returns a map that has grown to `factor` times its volume, by at most `max_growth`."""
    box = box_around([score], (config.max_growth + config.edge) / spacing, intensities.bins.shape)
    values, highest = score.probabilities(box), score.maximum
    bins = intensities.bins[box]
    possible = intensities.possible.get(organ, np.ones(intensities.config.bins, bool))[bins]
    core = values > config.core * highest
    distance = ndimage.distance_transform_edt(~core, sampling=spacing)
    reached = np.sort(distance[possible & (distance <= config.max_growth)])
    volume = round(factor * float(core.sum()))
    growth = float(reached[min(volume, len(reached)) - 1]) if len(reached) else 0.0
    ramp = np.clip(0.5 + (growth - distance) / config.edge, 0, 1) * config.score * highest
    grown = np.where(possible, np.maximum(values, ramp), values)
    return replace(score, values=np.rint(grown * 255).astype(np.uint8), lower=lower_corner(box)).cropped()
