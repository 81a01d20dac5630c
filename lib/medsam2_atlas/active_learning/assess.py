"""How much a case could teach: three measures, each 0 (nothing new) to about 1, over all organs in the scan.

`disagreement`  1 − mean Dice between foundation and baseline (query by committee, Seung et al. 1992).
`uncertainty`   entropy of the score maps, and how far the references are from one mind about the prompts.
`novelty`       what registration left unexplained, and the distance to the most similar reference.
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
    """Measures of a case by strategy, and a sentence on each; a measure that cannot be taken is missing."""

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
    """Takes all measures of a case.

    Args:
        image: the CT.
        atlas: the one of the score maps.
        scores: of the CT.
        prompts: made of the score maps.
        foundation: label map `[z, y, x]` of a prompted model.
        baseline: label map of the model that it is compared with.
        known: numbers of the organs that both models know; all by default. Other organs do not count.
    """
    values, why = {}, {}
    doubts = uncertainty(scores, prompts)
    if doubts:
        values["uncertainty"] = float(np.mean(list(doubts.values())))
        why["uncertainty"] = f"least certain for {_highest(doubts, lambda v: v)} (0 certain, 1 not at all)"
    unexplained, nearest = strangeness(image, atlas, scores)
    weight = active_learning_config().template_weight
    values["novelty"] = weight * unexplained + (1 - weight) * nearest
    why["novelty"] = (
        f"after registration it correlates with the atlas by {1 - unexplained:.2f} and with the most similar of "
        f"{len(atlas.references)} references by {1 - nearest:.2f}"
    )
    if foundation is not None and baseline is not None:
        differences = disagreement(foundation, baseline, known)
        if differences:
            values["disagreement"] = float(np.mean(list(differences.values())))
            mean = 1 - values["disagreement"]
            lowest = _highest(differences, lambda v: 1 - v)
            why["disagreement"] = f"foundation and baseline agree to a mean Dice of {mean:.2f}, least for {lowest}"
    return Assessment(values, why)


def uncertainty(scores: ScoreMaps, prompts: Prompts) -> dict[int, float]:
    """Returns per organ in the scan a mean of its score map's entropy share and the doubt about its prompt; 0..1.

    Doubt is 1 minus the highest score, larger if a box had to be taken from another slice, and 1 without a prompt.
    `ActiveLearningConfig` has the weights.
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
    """Returns 1 − Dice of each organ that either label map holds. known: numbers of the organs that count; all by default."""
    counted = organ_table().indices if known is None else known
    dice = dice_per_organ(first, second, counted)
    only = {k: 0.0 for k in np.unique(first).tolist() if k and k not in dice and (known is None or k in known)}
    return {int(k): 1 - v for k, v in (dice | only).items()}


def strangeness(image: Volume, atlas: Atlas, scores: ScoreMaps) -> tuple[float, float]:
    """Distances (1 − correlation of small pictures in the common space) of a CT to the atlas and to its nearest reference."""
    small = thumbnail_of(
        WorkImage.of(image, atlas.template.spacing, registration_config().image), scores.inverse, atlas.template
    )
    template = thumbnail_of(atlas.template, Transform(), atlas.template)
    return thumbnail_distance(small, template), novelty(small, atlas.references)


def _entropy_share(score: ScoreMap) -> float:
    """H / (H + M): H the sum of the voxels' binary entropies in bits, M the sum of their scores; 0 for a sharp map."""
    p = np.clip(score.values[score.values > 0].astype(np.float32) / 255, 1e-6, 1 - 1e-6)
    entropy = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())
    return entropy / (entropy + float(p.sum())) if len(p) else 1.0


def _highest(values: dict[int, float], shown: Callable[[float], float], count: int = 3) -> str:
    """Returns the organs of the highest values, each with what is shown of its value."""
    ranked = sorted(values, key=lambda k: -values[k])[:count]
    return ", ".join(f"{organ_table()[k].display.lower()} {shown(values[k]):.2f}" for k in ranked)
