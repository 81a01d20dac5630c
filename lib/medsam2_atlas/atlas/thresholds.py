"""The best threshold of each organ's score map, by leaving one reference out after the other.

In the common space: each reference in turn is what the others' votes are held against. No registration is needed. The
threshold of an organ is the one whose boxes, around what lies above it, overlap most with the true ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.reference import NOWHERE, map_shape
from medsam2_atlas.atlas.voting import FusionConfig, nearest, vote_on
from medsam2_atlas.errors import AtlasError
from medsam2_atlas.labels import organ_table
from medsam2_atlas.masks import box_overlap, occupied
from medsam2_atlas.progress import Progress, silent

_LEAST_REFERENCES = 3
_CANDIDATES = np.round(np.arange(0.05, 0.951, 0.05), 2)
_KEY = "thresholds"


@dataclass(frozen=True)
class Thresholds:
    """What was found for an atlas.

    values: per organ number. overlap: mean intersection over union of the boxes there. fusion: for which it was found.
    references: how many were left out in turn.
    """

    values: dict[int, float]
    overlap: dict[int, float]
    fusion: str
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
        organs = [k for k in reference.shares if any(k in other.organs for other in others)]
        covered = reference.covers(shape)
        for k, found in vote_on(picture, picture > NOWHERE, others, atlas, config, organs).items():
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
        count,
    )


def with_thresholds(atlas: Atlas, found: Thresholds) -> Atlas:
    """The atlas with thresholds beside its other options."""
    names = organ_table()
    stored = {
        "fusion": found.fusion,
        "references": found.references,
        "values": {names[k].name: value for k, value in found.values.items()},
        "box_overlap": {names[k].name: round(value, 4) for k, value in found.overlap.items()},
    }
    return replace(atlas, options={**atlas.options, _KEY: stored})


def thresholds_of(atlas: Atlas, fusion: str) -> dict[int, float]:
    """Thresholds that were found for an atlas and a way to fuse; empty where none were."""
    stored: Mapping[str, Any] = atlas.options.get(_KEY) or {}
    if stored.get("fusion") != fusion or stored.get("references") != len(atlas.references):
        return {}
    return {o.index: float(stored["values"][o.name]) for o in organ_table().organs if o.name in stored["values"]}


def _box(mask: np.ndarray) -> np.ndarray | None:
    """Corners `[2, 3]`, the second past the last voxel; None where the mask is empty."""
    spans = occupied(mask)
    return None if spans is None else np.array([[span.start for span in spans], [span.stop for span in spans]])


def _overlap(found: np.ndarray | None, truth: np.ndarray) -> float:
    return 0.0 if found is None else box_overlap(found, truth)
