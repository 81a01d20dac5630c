"""Measures how informative a case is for training, by three measures from 0 (nothing new) to about 1.

`disagreement`  1 − mean Dice between foundation and baseline (query by committee, Seung et al. 1992).
`uncertainty`   entropy of the score maps, and doubt about the prompts, as means over the organs in the scan.
`novelty`       distance to the atlas' template after registration, and to the most similar reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.active_learning.config import active_learning_config
from medsam2_atlas.atlas import Atlas, novelty, thumbnail_distance, thumbnail_of
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import Prompts
from medsam2_atlas.registration import Transform, WorkImage, registration_config
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps


@dataclass(frozen=True)
class Assessment:
    """The measures of a case by strategy, and a sentence on each (`why`); a measure that cannot be computed is missing."""

    values: dict[str, float]
    why: dict[str, str]


def assess(
    image: Volume,
    atlas: Atlas,
    scores: ScoreMaps,
    prompts: Prompts,
    foundation: np.ndarray | None = None,
    baseline: np.ndarray | None = None,
    known: Sequence[int] | None = None,
) -> Assessment:
    """Computes all measures of a case.

    Args:
        image: the CT, `[z, y, x]` in HU.
        atlas: the atlas of the score maps.
        scores: score maps of the CT.
        prompts: prompts of the score maps.
        foundation: label map `[z, y, x]` of a prompted model; None if there is none.
        baseline: label map `[z, y, x]` of the model that it is compared with; None if there is none.
        known: numbers of the organs that both models segment; by default all. Other organs do not count.
    """
    values, why = {}, {}
    doubts = uncertainty(scores, prompts)
    if doubts:
        values["uncertainty"] = float(np.mean(list(doubts.values())))
        why["uncertainty"] = f"highest uncertainty for {_highest(doubts, lambda v: v)} (0: certain, 1: uncertain)"
    unexplained, nearest = novelty_distances(image, atlas, scores)
    weight = active_learning_config().template_weight
    values["novelty"] = weight * unexplained + (1 - weight) * nearest
    why["novelty"] = (
        f"correlation after registration: {1 - unexplained:.2f} with the atlas, {1 - nearest:.2f} with the most similar of "
        f"{len(atlas.references)} references"
    )
    if foundation is not None and baseline is not None:
        differences = disagreement(foundation, baseline, known)
        if differences:
            values["disagreement"] = float(np.mean(list(differences.values())))
            mean = 1 - values["disagreement"]
            lowest = _highest(differences, lambda v: 1 - v)
            why["disagreement"] = f"mean Dice between the two models {mean:.2f}, lowest for {lowest}"
    return Assessment(values, why)


def uncertainty(scores: ScoreMaps, prompts: Prompts) -> dict[int, float]:
    """Returns the uncertainty (0..1) of each organ in the scan: a weighted mean of entropy share and doubt about the prompt.

    The doubt is 1 minus the max score. It is larger if a box was taken from another slice, and 1 without a prompt.
    `ActiveLearningConfig` contains the weights.

    Args:
        scores: score maps of a CT.
        prompts: prompts of the score maps.
    """
    config = active_learning_config()
    by_label = {prompt.label: prompt for prompt in prompts.prompts}
    found = {}
    for k, score in scores.maps.items():
        if k not in organ_table().indices or score.visible < config.min_visible:
            continue
        prompt = by_label.get(k)
        doubt = 1.0 if prompt is None else min(1.0, 1 - score.maximum + config.fallback_doubt * bool(prompt.notes))
        found[k] = config.entropy_weight * _entropy_share(score) + (1 - config.entropy_weight) * doubt
    return found


def disagreement(first: np.ndarray, second: np.ndarray, known: Sequence[int] | None = None) -> dict[int, float]:
    """Returns 1 − Dice of each organ that at least one label map contains, by organ number.

    Args:
        first: organ numbers `[z, y, x]`.
        second: organ numbers of the same shape.
        known: numbers of the organs to compare; by default all.

    >>> found = disagreement(np.array([[[6, 6, 0]]]), np.array([[[6, 6, 1]]]))
    >>> {organ: float(value) for organ, value in found.items()}
    {1: 1.0, 6: 0.0}
    """
    counted = organ_table().indices if known is None else known
    dice = dice_per_organ(first, second, counted)
    only = {k: 0.0 for k in np.unique(first).tolist() if k and k not in dice and (known is None or k in known)}
    return {int(k): 1 - v for k, v in (dice | only).items()}


def novelty_distances(image: Volume, atlas: Atlas, scores: ScoreMaps) -> tuple[float, float]:
    """Returns the distances of a CT to the atlas' template and to the most similar reference.

    A distance is 1 − correlation of thumbnails in the common space.

    Args:
        image: the CT, `[z, y, x]` in HU.
        atlas: the atlas of the score maps.
        scores: score maps of the CT; they contain its registration.
    """
    small = thumbnail_of(
        WorkImage.of(image, atlas.template.spacing, registration_config().image), scores.inverse, atlas.template
    )
    template = thumbnail_of(atlas.template, Transform(), atlas.template)
    return thumbnail_distance(small, template), novelty(small, atlas.references)


def _entropy_share(score: ScoreMap) -> float:
    """Returns H / (H + M): H is the sum of the voxels' binary entropies in bits, M the sum of their scores.

    The share is 0 for a score map of zeros and ones, and 1 for an empty one.
    """
    p = np.clip(score.values[score.values > 0].astype(np.float32) / 255, 1e-6, 1 - 1e-6)
    entropy = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())
    return entropy / (entropy + float(p.sum())) if len(p) else 1.0


def _highest(values: dict[int, float], shown: Callable[[float], float], count: int = 3) -> str:
    """Lists the organs of the highest values as text; `shown` converts a value to the number that is shown."""
    ranked = sorted(values, key=lambda k: -values[k])[:count]
    return ", ".join(f"{organ_table()[k].display.lower()} {shown(values[k]):.2f}" for k in ranked)
