"""What anatomy says about prompts beside the score maps: sides, and neighbours that are known better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.prompting.prompt import OrganPrompt, Prompts
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps

_INSIDE = 127
"""Value of a score map above which a voxel more likely belongs to the organ than not."""


class PriorsConfig(Settings):
    """How organs that are segmented constrain the others, in strategy E."""

    stable: float = Field(
        0.5,
        ge=0,
        le=1,
        description="confidence from which on an organ is segmented first and constrains others: more likely a good "
        "prompt than not",
    )
    reach: float = Field(
        60.0,
        gt=0,
        description="mm; deviation of the Gaussian by which a neighbour's shift counts less with distance: about an "
        "organ's size",
    )
    inertia: float = Field(
        0.5,
        ge=0,
        description="weight of staying in place, beside neighbours' weights of up to 1 each: one neighbour alone moves a "
        "map by 2/3 of its shift",
    )
    min_left: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of its score that a map has to keep; if a neighbour would take more, the map stays as it is",
    )


@cache
def priors_config(file: Path | None = None) -> PriorsConfig:
    """Returns the settings in `configs/priors.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(PriorsConfig, file or resource("configs/priors.yaml"), "configuration of priors")


def resolve_laterality(prompts: Prompts, table: OrganTable, scores: ScoreMaps) -> Prompts:
    """Removes a prompt of each pair of `right_…` and `left_…` organs that lie the wrong way round or on each other.

    The surer one keeps its prompt.

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


def by_stability(prompts: Prompts, config: PriorsConfig | None = None) -> tuple[list[int], list[int]]:
    """Returns labels of the organs that are sure enough to go first, and of the others.

    The first half of them goes first if none is sure enough.
    """
    stable = (config or priors_config()).stable
    ranked = sorted(prompts.prompts, key=lambda p: -(p.confidence or 0.0))
    first = [p.label for p in ranked if (p.confidence or 0.0) >= stable] or [p.label for p in ranked[: -(-len(ranked) // 2)]]
    return first, [p.label for p in ranked if p.label not in first]


def constrained(scores: ScoreMaps, labels: np.ndarray, later: Sequence[int], config: PriorsConfig | None = None) -> ScoreMaps:
    """Returns score maps of organs that are not segmented yet, given a label map `[z, y, x]` of those that are.

    A map is moved as its segmented neighbours lie off their own maps, the nearer the more, and loses what lies in them. An
    organ that would lose most of its score that way is left as it is: then the neighbour is the one to doubt.
    """
    config = config or priors_config()
    stride, spacing = scores.stride, scores.reduced_spacing
    reduced = labels[:, stride // 2 :: stride, stride // 2 :: stride]
    places, moves = [], []
    for k in np.unique(reduced[reduced > 0]).tolist():
        expected = scores.maps.get(k)
        if expected is not None and (expected.values > _INSIDE).any():
            before = (np.argwhere(expected.values > _INSIDE).mean(0) + expected.lower) * spacing
            places.append(before)
            moves.append(np.argwhere(reduced == k).mean(0) * spacing - before)
    maps = dict(scores.maps)
    for k in later:
        score = maps.get(k)
        if score is not None and score.values.any():
            shift = _shift(score, np.array(places), np.array(moves), spacing, config)
            maps[k] = _trimmed(score.moved(shift, reduced.shape), reduced, config)
    return replace(scores, maps=maps)


def _shift(score: ScoreMap, places: np.ndarray, moves: np.ndarray, spacing: np.ndarray, config: PriorsConfig) -> np.ndarray:
    """Returns the whole voxels (z, y, x) by which a map follows its neighbours.

    places, moves: where the neighbours have moved, and how far; both in mm, `[n, 3]`.
    """
    if not len(places):
        return np.zeros(3, int)
    middle = (np.array(ndimage.center_of_mass(score.values)) + score.lower) * spacing
    near = np.exp(-((places - middle) ** 2).sum(1) / (2 * config.reach**2))
    shift: np.ndarray = np.rint(near @ moves / (near.sum() + config.inertia) / spacing).astype(int)
    return shift


def _trimmed(score: ScoreMap, reduced: np.ndarray, config: PriorsConfig) -> ScoreMap:
    values = np.where(reduced[score.spans] == 0, score.values, 0)
    if values.sum(dtype=np.int64) < config.min_left * score.values.sum(dtype=np.int64):
        return score
    return replace(score, values=values)


def _to_the_left(prompt: OrganPrompt, scores: ScoreMaps) -> float:
    """x (mm) in the common space of the middle of a prompt's boxes."""
    corners = np.array([[(b.box[0] + b.box[2]) / 2, (b.box[1] + b.box[3]) / 2, b.z] for b in prompt.boxes])
    place = torch.from_numpy(scores.geometry.to_world(corners.mean(0))).float()
    return float(scores.transform(place[None])[0, 0])
