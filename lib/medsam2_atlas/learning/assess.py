"""How much a case could teach: three measures, each 0 (nothing new) to about 1, over all organs in the scan.

`disagreement`  1 − mean Dice between MedSAM2 and U-Net (query by committee, Seung et al. 1992).
`uncertainty`   entropy of the score maps, and how far the references are from one mind about the prompts.
`novelty`       what registration left unexplained, and the distance to the most similar reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medsam2_atlas.atlas import Atlas, ScoreMap, ScoreMaps, novelty, thumbnail_distance, thumbnail_of
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.labels import organ_table
from medsam2_atlas.prompting import Prompts
from medsam2_atlas.registration import Transform, WorkImage
from medsam2_atlas.volume import Volume

_LEAST_VISIBLE = 0.05
_FALLBACK_COST = 0.25


@dataclass(frozen=True)
class Assessment:
    """Measures of a case, and what they rest on.

    values: by strategy; a measure that cannot be taken is missing. organs: per strategy and organ number. why: sentences.
    """

    values: dict[str, float]
    organs: dict[str, dict[int, float]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


def assess(
    image: Volume,
    atlas: Atlas,
    scores: ScoreMaps,
    prompts: Prompts,
    foundation: np.ndarray | None = None,
    baseline: np.ndarray | None = None,
) -> Assessment:
    """Takes the measures of a case.

    Args:
        image: the CT.
        atlas: the one of the score maps.
        scores: of the CT.
        prompts: made of the score maps.
        foundation: label map `[z, y, x]` of MedSAM2, or of the atlas alone.
        baseline: label map of the U-Net.
    """
    values, organs, why = {}, {}, {}
    uncertain = {
        k: _uncertainty(score, k, prompts)
        for k, score in scores.maps.items()
        if k in organ_table().indices and score.visible >= _LEAST_VISIBLE
    }
    if uncertain:
        values["uncertainty"], organs["uncertainty"] = float(np.mean(list(uncertain.values()))), uncertain
        why["uncertainty"] = f"score maps and prompts are least certain for {_worst(uncertain, 'uncertainty')}"
    small = thumbnail_of(WorkImage.of(image, atlas.template.spacing), scores.inverse, atlas.template)
    template = thumbnail_of(atlas.template, Transform(), atlas.template)
    unexplained, nearest = thumbnail_distance(small, template), novelty(small, atlas.references)
    values["novelty"] = (unexplained + nearest) / 2
    why["novelty"] = (
        f"after registration it correlates with the atlas by {1 - unexplained:.2f} and with the most similar of "
        f"{len(atlas.references)} references by {1 - nearest:.2f}"
    )
    if foundation is not None and baseline is not None:
        apart = _disagreement(foundation, baseline)
        if apart:
            values["disagreement"], organs["disagreement"] = float(np.mean(list(apart.values()))), apart
            why["disagreement"] = (
                f"foundation and U-Net agree to a mean Dice of {1 - values['disagreement']:.2f}; least for "
                f"{_worst(apart, 'Dice', flipped=True)}"
            )
    return Assessment(values, organs, why)


def _uncertainty(score: ScoreMap, organ: int, prompts: Prompts) -> float:
    """Half the score map's entropy share, half the doubt about the prompt."""
    p = np.clip(score.values.astype(np.float32) / 255, 1e-6, 1 - 1e-6)
    entropy = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p))[score.values > 0].sum())
    mass = float(p[score.values > 0].sum())
    spread = entropy / (entropy + mass) if mass else 1.0
    prompt = next((q for q in prompts.prompts if q.label == organ), None)
    doubt = 1.0 if prompt is None else min(1.0, 1 - score.maximum + _FALLBACK_COST * bool(prompt.notes))
    return (spread + doubt) / 2


def _disagreement(first: np.ndarray, second: np.ndarray) -> dict[int, float]:
    """1 − Dice of each organ that either label map holds."""
    dice = dice_per_organ(first, second, organ_table().indices)
    only = {k: 0.0 for k in np.unique(first).tolist() if k and k not in dice}
    return {int(k): 1 - v for k, v in (dice | only).items()}


def _worst(values: dict[int, float], what: str, count: int = 3, flipped: bool = False) -> str:
    ranked: Sequence[int] = sorted(values, key=lambda k: -values[k])[:count]
    shown = (f"{organ_table()[k].display.lower()} ({1 - values[k] if flipped else values[k]:.2f})" for k in ranked)
    return f"{', '.join(shown)} [{what}]"
