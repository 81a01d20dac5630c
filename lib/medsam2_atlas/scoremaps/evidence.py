"""What speaks for and against a score map: measures from which a prompt's confidence follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING
from medsam2_atlas.registration import Transform, WorkImage, grid_points, sample
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.voting import scaled

_MOST_SIZE = 2.0
_UNKNOWN_AGREEMENT = 0.5

EVIDENCE = ("certain", "kept", "size", "similar", "agreement", "visible")


def with_evidence(found: ScoreMaps, registered: ScoreMaps, work: WorkImage, atlas: Atlas) -> ScoreMaps:
    """Score maps with the evidence about each.

    certain: mean score of the voxels, weighted by their scores. kept: fuzzy Dice between the registered map and the one that
    the target's intensities have corrected. size: |ln| of the ratio of their volumes. similar: 1 − mean difference of HU
    (−160..240 as 0..1) between target and template where the atlas expects the organ. agreement: Dice of the organ between
    references. visible: share of it in the scan.

    Args:
        found: the final maps.
        registered: as registration and label fusion gave them.
        work: the target on its working grid.
        atlas: of the maps.
    """
    agreement, to_target = atlas.agreement, found.inverse
    result = {}
    for k, score in found.maps.items():
        before = registered.maps[k]
        total, earlier = float(score.values.sum(dtype=np.int64)), float(before.values.sum(dtype=np.int64))
        values = {"certain": 0.0, "kept": 0.0, "size": _MOST_SIZE}
        if total and earlier:
            share = score.values.astype(np.float32)
            values = {
                "certain": float((share**2).sum()) / 255 / total,
                "kept": 2 * _common(score, before) / (total + earlier),
                "size": min(_MOST_SIZE, abs(float(np.log(total / earlier)))),
            }
        values["similar"] = 1 - _difference(atlas.maps[k], atlas.template, work, to_target)
        values["agreement"] = agreement.get(k, _UNKNOWN_AGREEMENT)
        values["visible"] = score.visible
        result[k] = replace(score, evidence={name: round(values[name], 4) for name in EVIDENCE})
    return replace(found, maps=result)


def _common(first: ScoreMap, second: ScoreMap) -> float:
    low = np.maximum(first.low, second.low)
    high = np.minimum(np.add(first.low, first.values.shape), np.add(second.low, second.values.shape))
    if (high <= low).any():
        return 0.0
    parts = [
        score.values[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, score.low, strict=True))]
        for score in (first, second)
    ]
    return float(np.minimum(*parts).sum(dtype=np.int64))


def _difference(organ: ProbabilityMap, template: WorkImage, work: WorkImage, to_target: Transform) -> float:
    weights = organ.as_tensor()[0]
    points = grid_points(weights.shape, torch.from_numpy(organ.origin), MAP_SPACING)
    counted = weights > 0.5 * float(weights.max())
    places = points[counted]
    hu, valid = work.warped(to_target(places))
    if not valid.any():
        return 1.0
    wanted = sample(template.hu[None], places, template.origin, template.spacing)[0]
    apart = (scaled(hu) - scaled(wanted)).abs()[valid]
    return float(apart.mean())
