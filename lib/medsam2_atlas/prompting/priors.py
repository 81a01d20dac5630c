"""Anatomical rules for prompts: the sides of paired organs, and constraints by organs that are already segmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.prompting.prompt import OrganPrompt, Prompts
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps

_INSIDE = 127
"""Value of a score map above which a voxel is more likely to belong to the organ than not."""


class PriorsConfig(Settings):
    """How segmented organs constrain the other organs in strategy E."""

    stable: float = Field(
        0.5,
        ge=0,
        le=1,
        description="min confidence of an organ that is segmented first and constrains others: the prompt is more likely good "
        "than not",
    )
    reach: float = Field(
        60.0,
        gt=0,
        description="mm; standard deviation of the Gaussian that weights a neighbour's shift by its distance: about an "
        "organ's size",
    )
    inertia: float = Field(
        0.5,
        ge=0,
        description="weight of a zero shift; each neighbour has a weight of up to 1, so one close neighbour moves a map by "
        "2/3 of its own shift",
    )
    min_left: float = Field(
        0.2,
        ge=0,
        le=1,
        description="min share of its score that a map keeps; if segmented organs would remove more, the map stays unchanged",
    )


@read_once
def priors_config(file: Path | None = None) -> PriorsConfig:
    """Returns the settings in `configs/priors.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(PriorsConfig, file or resource("configs/priors.yaml"), "configuration of priors")


def resolve_laterality(prompts: Prompts, table: OrganTable, scores: ScoreMaps) -> Prompts:
    """Removes the less certain prompt of each left and right pair unless the left organ lies left of the right one.

    Sides are determined in the atlas' common space, so they are correct even if the file has a wrong patient position.

    Args:
        prompts: the prompts of the target.
        table: the organs and their pairs.
        scores: the target's score maps, which contain the transform to the common space.
    """
    by_label = {p.label: p for p in prompts.prompts}
    dropped: dict[int, str] = {}
    for left, right in ((by_label.get(left), by_label.get(right)) for left, right in table.pairs):
        if left and right and _to_the_left(left, scores) <= _to_the_left(right, scores):
            weaker, other = (left, right) if (left.confidence or 0) < (right.confidence or 0) else (right, left)
            dropped[weaker.label] = (
                f"it lies on the side of the {table[other.label].display.lower()}, whose prompt is more confident"
            )
    kept = tuple(p for p in prompts.prompts if p.label not in dropped)
    return replace(prompts, prompts=kept, missing={**prompts.missing, **dropped})


def by_stability(prompts: Prompts, config: PriorsConfig | None = None) -> tuple[list[int], list[int]]:
    """Splits the organs into those that are segmented first and the others, each ranked by confidence.

    Organs with a confidence of at least `stable` are first. If there is none, the more confident half is first.

    Args:
        prompts: the prompts of the organs.
        config: the settings; those of `configs/priors.yaml` by default.

    Returns:
        The organ numbers of the first organs, and those of the others.
    """
    stable = (config or priors_config()).stable
    ranked = sorted(prompts.prompts, key=lambda p: -(p.confidence or 0.0))
    first = [p.label for p in ranked if (p.confidence or 0.0) >= stable] or [p.label for p in ranked[: -(-len(ranked) // 2)]]
    return first, [p.label for p in ranked if p.label not in first]


def constrained(scores: ScoreMaps, labels: np.ndarray, later: Sequence[int], config: PriorsConfig | None = None) -> ScoreMaps:
    """Moves and trims the score maps of organs by the neighbours that are already segmented.

    A map moves with its segmented neighbours: by the weighted mean of the shifts between their score maps and their masks. The
    map then loses the voxels inside segmented organs. A map that would lose most of its score keeps these voxels, because the
    neighbour's mask is more likely wrong.

    Args:
        scores: the target's score maps.
        labels: the label map of the segmented organs, `[z, y, x]` at the target's full resolution.
        later: the numbers of the organs that are not segmented yet.
        config: the settings; those of `configs/priors.yaml` by default.
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
    """Returns the shift of a map that follows its neighbours, in whole voxels (z, y, x).

    `places` and `moves` are the neighbours' positions and shifts, each `[n, 3]` (z, y, x) in mm.
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
    """Returns the x coordinate (mm, common space) of the mean centre of a prompt's boxes; x increases to the left."""
    corners = np.array([[(b.box[0] + b.box[2]) / 2, (b.box[1] + b.box[3]) / 2, b.z] for b in prompt.boxes])
    place = torch.from_numpy(scores.geometry.to_world(corners.mean(0))).float()
    return float(scores.transform(place[None])[0, 0])
