"""The best threshold of each organ's score map, by leaving one reference out after the other.

In the common space: each reference in turn is what the others' votes, corrected by its intensities where that is configured,
are held against. No registration is needed. The
threshold of an organ is the one whose boxes, around what lies above it, overlap most with the true ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING, NOWHERE, Reference, map_shape
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import box_overlap, occupied
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import Transform, grid_points, sample
from medsam2_atlas.registration.work_image import AIR
from medsam2_atlas.scoremaps.appearance import corrected
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.voting import FusionConfig, nearest, vote_on

_LEAST_REFERENCES = 3
_CANDIDATES = np.round(np.arange(0.05, 0.951, 0.05), 2)
_KEY = "thresholds"


@dataclass(frozen=True)
class Thresholds:
    """What was found for an atlas.

    values: per organ number. overlap: mean intersection over union of the boxes there. fusion: for which it was found.
    corrected: whether for maps that intensities have corrected. references: how many were left out in turn.
    """

    values: dict[int, float]
    overlap: dict[int, float]
    fusion: str
    corrected: bool
    references: int


def find_thresholds(atlas: Atlas, config: FusionConfig, progress: Progress = silent) -> Thresholds:
    """The best thresholds for an atlas' references and a way to fuse them.

    Raises:
        AtlasError: fewer than three references.
    """
    count = len(atlas.references)
    if count < _LEAST_REFERENCES:
        raise AtlasError(
            atlas.source, f"has {count} references.", f"Thresholds need {_LEAST_REFERENCES}; use --thresholds adaptive."
        )
    shape = map_shape(atlas.template)
    overlaps: dict[int, list[np.ndarray]] = {}
    for number, reference in enumerate(atlas.references):
        rest = [other for other in atlas.references if other is not reference]
        others = nearest(reference.thumbnail, rest, config.references)
        picture = torch.from_numpy(reference.picture.astype(np.float32))
        covered = reference.covers(shape)
        votes = vote_on(picture, picture > NOWHERE, others, atlas, config, atlas.maps)
        if config.appearance.rounds:
            votes = _corrected(votes, picture, others, atlas, config)
        for k in reference.shares:
            if not any(k in other.organs for other in others):
                continue
            found = votes[k]
            box = found.spans(atlas.template)
            truth = _box(reference.mask(k, shape)[box])
            if truth is not None:
                seen = np.where(covered[box], found.values, 0)
                overlaps.setdefault(k, []).append(np.array([_overlap(_box(seen > t * 255), truth) for t in _CANDIDATES]))
        progress("thresholds", (number + 1) / count)
    means = {k: np.mean(values, 0) for k, values in sorted(overlaps.items())}
    best = {k: int(np.flatnonzero(mean >= mean.max() - 1e-9).mean().round()) for k, mean in means.items()}
    return Thresholds(
        {k: float(_CANDIDATES[n]) for k, n in best.items()},
        {k: float(means[k][n]) for k, n in best.items()},
        config.method,
        config.appearance.rounds > 0,
        count,
    )


def with_thresholds(atlas: Atlas, found: Thresholds) -> Atlas:
    """The atlas with thresholds beside its other options."""
    names = organ_table()
    stored = {
        "fusion": found.fusion,
        "corrected": found.corrected,
        "references": found.references,
        "values": {names[k].name: value for k, value in found.values.items()},
        "box_overlap": {names[k].name: round(value, 4) for k, value in found.overlap.items()},
    }
    return replace(atlas, options={**atlas.options, _KEY: stored})


def thresholds_of(atlas: Atlas, config: FusionConfig) -> dict[int, float]:
    """Thresholds that were found for an atlas and a way to fuse; empty where none were."""
    stored: Mapping[str, Any] = atlas.options.get(_KEY) or {}
    wanted = (config.method, config.appearance.rounds > 0, len(atlas.references))
    if (stored.get("fusion"), stored.get("corrected", False), stored.get("references")) != wanted:
        return {}
    return {o.index: float(stored["values"][o.name]) for o in organ_table().organs if o.name in stored["values"]}


def _corrected(
    votes: Mapping[int, ProbabilityMap],
    picture: torch.Tensor,
    others: Sequence[Reference],
    atlas: Atlas,
    config: FusionConfig,
) -> dict[int, ProbabilityMap]:
    """Votes after a look at the picture that they are about, as a target's are."""
    shape, template = map_shape(atlas.template), atlas.template
    size, origin = (shape[2], shape[1], shape[0]), template.origin.tolist()
    grid = Geometry(size, (MAP_SPACING,) * 3, (origin[0], origin[1], origin[2]))
    points = grid_points(torch.Size(shape), template.origin, MAP_SPACING)
    hu = sample(picture.clamp(min=AIR)[None], points, template.origin, template.spacing)[0].numpy()
    seen = np.any([other.covers(shape) for other in others], axis=0)
    maps = {}
    for k, vote in votes.items():
        z, y, x = (span.start for span in vote.spans(template))
        maps[k] = ScoreMap(vote.values, (z, y, x), 1.0)
    registered = ScoreMaps(maps, grid, 1, Transform(()), Transform(()))
    known = ScoreMap(seen.astype(np.uint8) * 255, (0, 0, 0), 1.0)
    found = corrected(registered, Volume(hu, grid, grid), known, config.appearance, organ_table().pairs).maps
    return {
        k: ProbabilityMap(
            score.values, (template.origin.numpy() + np.array(score.low[::-1]) * MAP_SPACING).astype(np.float32), votes[k].count
        )
        for k, score in found.items()
    }


def _box(mask: np.ndarray) -> np.ndarray | None:
    """Corners `[2, 3]`, the second past the last voxel; None where the mask is empty."""
    spans = occupied(mask)
    return None if spans is None else np.array([[span.start for span in spans], [span.stop for span in spans]])


def _overlap(found: np.ndarray | None, truth: np.ndarray) -> float:
    return 0.0 if found is None else box_overlap(found, truth)
