"""What anatomy says about prompts beside the score maps: sides, and neighbours that are known better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.prompting.prompt import OrganPrompt, Prompts
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps

STABLE = 0.5
"""Confidence from which on an organ's mask may constrain others."""

_REACH_MM = 60.0
_STAYS = 0.5
_INSIDE = 127
_LEAST_LEFT = 0.2


def told_apart(prompts: Prompts, table: OrganTable, scores: ScoreMaps) -> Prompts:
    """Of `right_…` and `left_…` organs that lie the wrong way round or on each other, only the surer one keeps its prompt.

    Sides are those of the atlas' common space: they hold for a patient who lies otherwise than the file says, too.
    """
    by_label = {p.label: p for p in prompts.prompts}
    dropped: dict[int, str] = {}
    for left, right in ((by_label.get(left), by_label.get(right)) for left, right in table.pairs):
        if left and right and _to_the_left(left, scores) <= _to_the_left(right, scores):
            weaker, other = (left, right) if (left.confidence or 0) < (right.confidence or 0) else (right, left)
            dropped[weaker.label] = f"it lies on the side of the {table[other.label].display.lower()}, which is surer"
    kept = tuple(p for p in prompts.prompts if p.label not in dropped)
    return replace(prompts, prompts=kept, missing={**prompts.missing, **dropped})


def by_stability(prompts: Prompts) -> tuple[list[int], list[int]]:
    """Labels of the organs that are sure enough to go first, and of the others; the first half of them where none is."""
    ranked = sorted(prompts.prompts, key=lambda p: -(p.confidence or 0.0))
    first = [p.label for p in ranked if (p.confidence or 0.0) >= STABLE] or [p.label for p in ranked[: -(-len(ranked) // 2)]]
    return first, [p.label for p in ranked if p.label not in first]


def constrained(scores: ScoreMaps, labels: np.ndarray, later: Sequence[int]) -> ScoreMaps:
    """Score maps of organs that are not segmented yet, given a label map `[z, y, x]` of those that are.

    A map is moved as its segmented neighbours lie off their own maps, the nearer the more, and loses what lies in them. An
    organ that would lose four fifths of its score that way is left as it is: then the neighbour is the one to doubt.
    """
    stride, spacing = scores.stride, scores.reduced_spacing
    reduced = labels[:, stride // 2 :: stride, stride // 2 :: stride]
    places, moves = [], []
    for k in np.unique(reduced[reduced > 0]).tolist():
        expected = scores.maps.get(k)
        if expected is not None and (expected.values > _INSIDE).any():
            before = (np.argwhere(expected.values > _INSIDE).mean(0) + expected.low) * spacing
            places.append(before)
            moves.append(np.argwhere(reduced == k).mean(0) * spacing - before)
    maps = dict(scores.maps)
    for k in later:
        score = maps.get(k)
        if score is not None and score.values.any():
            maps[k] = _trimmed(_moved(score, places, moves, spacing, reduced.shape), reduced)
    return replace(scores, maps=maps)


def _moved(
    score: ScoreMap, places: list[np.ndarray], moves: list[np.ndarray], spacing: np.ndarray, shape: tuple[int, ...]
) -> ScoreMap:
    if not places:
        return score
    middle = (np.array(ndimage.center_of_mass(score.values)) + score.low) * spacing
    near = np.exp(-((np.array(places) - middle) ** 2).sum(1) / (2 * _REACH_MM**2))
    shift = np.rint(near @ np.array(moves) / (near.sum() + _STAYS) / spacing).astype(int)
    low = np.array(score.low) + shift
    first = np.maximum(0, -low)
    last = np.minimum(score.values.shape, np.array(shape) - low)
    if (last <= first).any():
        return score
    z, y, x = (int(v) for v in low + first)
    return replace(score, values=score.values[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], low=(z, y, x))


def _trimmed(score: ScoreMap, reduced: np.ndarray) -> ScoreMap:
    values = np.where(reduced[score.spans] == 0, score.values, 0)
    if values.sum(dtype=np.int64) < _LEAST_LEFT * score.values.sum(dtype=np.int64):
        return score
    return replace(score, values=values)


def _to_the_left(prompt: OrganPrompt, scores: ScoreMaps) -> float:
    """x (mm) in the common space of the middle of a prompt's boxes."""
    corners = np.array([[(b.box[0] + b.box[2]) / 2, (b.box[1] + b.box[3]) / 2, b.z] for b in prompt.boxes])
    place = torch.from_numpy(scores.geometry.to_world(corners.mean(0))).float()
    return float(scores.transform(place[None])[0, 0])
