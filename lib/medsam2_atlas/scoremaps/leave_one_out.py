"""Finds the best threshold of each organ's score map by leaving out one reference after another.

The references are already in the common space, so none is registered again. The other references vote on the reference that is
left out, and its intensities correct their votes if the settings enable that. The best threshold of an organ is the one whose
boxes have the highest overlap with the true boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING, NO_VOXEL, Reference, map_shape
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.masks import box_overlap, occupied
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import Transform, WorkImage, grid_points, sample
from medsam2_atlas.registration.work_image import AIR
from medsam2_atlas.scoremaps.alignment import Alignment
from medsam2_atlas.scoremaps.atlas_thresholds import Thresholds
from medsam2_atlas.scoremaps.config import FusionConfig
from medsam2_atlas.scoremaps.steps import BEND, CORRECT, RESTORE
from medsam2_atlas.scoremaps.voting import Votes, nearest, vote_on
from medsam2_atlas.scoremaps.warping import map_grid, on_map_grid


def find_thresholds(atlas: Atlas, config: FusionConfig, progress: Progress = silent) -> Thresholds:
    """Returns the best thresholds for an atlas and the settings of the steps.

    Args:
        atlas: the atlas, whose references are left out in turn.
        config: the settings of the steps.
        progress: called with the stage and the fraction completed.

    Raises:
        AtlasError: the atlas has fewer references than `config.thresholds.min_references`.
    """
    count, fewest = len(atlas.references), config.thresholds.min_references
    if count < fewest:
        raise AtlasError(atlas.source, f"has {count} references.", f"Thresholds need {fewest}; use --thresholds adaptive.")
    step = config.thresholds.step
    candidates = np.round(np.arange(step, 1 - step + 0.001, step), 2)
    overlaps: dict[int, list[np.ndarray]] = {}
    for number, reference in enumerate(atlas.references):
        for k, values in _overlaps(reference, atlas, config, candidates).items():
            overlaps.setdefault(k, []).append(values)
        progress("thresholds", (number + 1) / count)
    means = {k: np.mean(values, 0) for k, values in sorted(overlaps.items())}
    best = {k: int(np.flatnonzero(mean >= mean.max() - 1e-9).mean().round()) for k, mean in means.items()}
    return Thresholds(
        {k: float(candidates[n]) for k, n in best.items()},
        {k: float(means[k][n]) for k, n in best.items()},
        config.vote.name,
        config.uses_intensities,
        count,
    )


def _overlaps(reference: Reference, atlas: Atlas, config: FusionConfig, candidates: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the overlap of each threshold's box with the true box, for organs that this and another reference have."""
    shape = map_shape(atlas.template)
    rest = [other for other in atlas.references if other is not reference]
    others = nearest(reference.thumbnail, rest, config.vote.references)
    covered, maps = reference.covers(shape), _maps_without(reference, others, atlas, config)
    overlaps = {}
    for k in reference.shares:
        if not any(k in other.organs for other in others):
            continue
        found = maps[k]
        truth = _box(reference.mask(k, shape)[found.spans])
        if truth is not None:
            seen = np.where(covered[found.spans], found.values, 0)
            overlaps[k] = np.array([_overlap(_box(seen > t * 255), truth) for t in candidates])
    return overlaps


def _maps_without(
    reference: Reference, others: Sequence[Reference], atlas: Atlas, config: FusionConfig
) -> dict[int, CroppedMap]:
    """Returns the votes of `others` on a reference, corrected by its intensities, on the map grid."""
    picture, template = torch.from_numpy(reference.picture.astype(np.float32)), atlas.template
    work = WorkImage(picture.clamp(min=AIR), picture > NO_VOXEL, template.origin, template.spacing)
    organs, _ = vote_on(picture, work.valid, others, atlas, config.vote)
    if not config.uses_intensities:
        return {k: organ.on_grid(template) for k, organ in organs.items()}
    grid, shape = map_grid(template), map_shape(template)
    points = grid_points(torch.Size(shape), template.origin, MAP_SPACING)
    hu = sample(work.hu[None], points, template.origin, template.spacing)[0].numpy()
    seen = np.any([other.covers(shape) for other in others], axis=0)
    alignment = Alignment(Volume(hu, grid, grid, reference.name), work, atlas, Transform(), Transform())
    field_of_view = ProbabilityMap(seen.astype(np.uint8) * 255, template.origin.numpy(), len(others))
    value = on_map_grid(Votes(alignment, organs, field_of_view))
    for step in (RESTORE, BEND, CORRECT):
        value = step(value, config, silent)
    return dict(value.scores.maps)


def _box(mask: np.ndarray) -> np.ndarray | None:
    """Returns a mask's first voxel and the voxel after its last, `[2, 3]` (z, y, x); None if the mask is empty."""
    spans = occupied(mask)
    return None if spans is None else np.array([[span.start for span in spans], [span.stop for span in spans]])


def _overlap(found: np.ndarray | None, truth: np.ndarray) -> float:
    return 0.0 if found is None else box_overlap(found, truth)
