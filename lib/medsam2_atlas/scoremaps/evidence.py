"""The step `evidence`: measures the reliability of a score map. The confidence of a prompt is computed from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field

from medsam2_atlas.atlas.atlas import ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING
from medsam2_atlas.registration import grid_points, sample
from medsam2_atlas.scoremaps.alignment import Alignment
from medsam2_atlas.scoremaps.maps import ScoreMaps
from medsam2_atlas.scoremaps.step import StepConfig
from medsam2_atlas.scoremaps.voting import scaled
from medsam2_atlas.scoremaps.warping import Warped

EVIDENCE = ("certain", "kept", "size", "similar", "agreement", "visible", "restored")
"""The names of the measures; `with_evidence` defines them."""


class EvidenceConfig(StepConfig):
    """How evidence is measured. If the step is disabled, prompts have no confidence.

    The weights in `configs/confidence.yaml` were calibrated with these values.
    """

    max_size: float = Field(2.0, gt=0, description="natural logarithm; max change of an organ's volume that counts")
    unknown_agreement: float = Field(0.5, ge=0, le=1, description="Dice assumed for an organ that only one reference has")
    core: float = Field(
        0.5, gt=0, lt=1, description="share of an organ's max probability above which target and template are compared"
    )
    min_hu: float = Field(-160.0, description="HU that count as 0; lower values too, so that fat and air are not compared")
    max_hu: float = Field(240.0, description="HU that count as 1; higher values too, so that bone is not compared")


def with_evidence(warped: Warped, config: EvidenceConfig) -> ScoreMaps:
    """Returns the final score maps with seven measures of evidence each.

    - `certain`: the mean score of the voxels, weighted by their scores.
    - `kept`: the fuzzy Dice between the registered map and the corrected map.
    - `size`: |ln| of the ratio of the volumes of these two maps.
    - `similar`: 1 − mean difference of HU (`min_hu`..`max_hu` as 0..1) between target and template, where the atlas expects
      the organ.
    - `agreement`: the Dice of the organ between references.
    - `visible`: the share of the organ inside the scan.
    - `restored`: ln of the predicted over the registered volume, for organs that the step `restore` has enlarged; otherwise 0.

    Args:
        warped: the registered and the corrected score maps.
        config: the settings of the step.
    """
    atlas = warped.alignment.atlas
    agreement, result = atlas.agreement, {}
    for k, score in warped.scores.maps.items():
        before = warped.registered.maps[k]
        total, earlier = float(score.values.sum(dtype=np.int64)), float(before.values.sum(dtype=np.int64))
        values = {"certain": 0.0, "kept": 0.0, "size": config.max_size}
        if total and earlier:
            share = score.values.astype(np.float32)
            common = float(np.minimum(score.values, before.part(score.spans)).sum(dtype=np.int64))
            values = {
                "certain": float((share**2).sum()) / 255 / total,
                "kept": 2 * common / (total + earlier),
                "size": min(config.max_size, abs(float(np.log(total / earlier)))),
            }
        values["similar"] = 1 - _difference(atlas.maps[k], warped.alignment, config)
        values["agreement"] = agreement.get(k, config.unknown_agreement)
        values["visible"] = score.visible
        values["restored"] = min(config.max_size, warped.growth.get(k, 0.0))
        result[k] = replace(score, evidence={name: round(values[name], 4) for name in EVIDENCE})
    return replace(warped.scores, maps=result)


def _difference(organ: ProbabilityMap, alignment: Alignment, config: EvidenceConfig) -> float:
    weights, template = organ.as_tensor()[0], alignment.atlas.template
    points = grid_points(weights.shape, torch.from_numpy(organ.origin), MAP_SPACING)
    counted = weights > config.core * float(weights.max())
    places = points[counted]
    hu, valid = alignment.work.warped(alignment.inverse(places))
    if not valid.any():
        return 1.0
    expected = sample(template.hu[None], places, template.origin, template.spacing)[0]
    found, expected = (scaled(values, config.min_hu, config.max_hu) for values in (hu, expected))
    return float((found - expected).abs()[valid].mean())
