"""The rules for the threshold that turns an organ's score map into its prompting region."""

from __future__ import annotations

from pydantic import Field

from medsam2_atlas.base.choices import ThresholdRule
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.step import StepConfig


class ThresholdsConfig(StepConfig):
    """The rules for thresholds. If the step is disabled, an atlas' own thresholds are not used."""

    max_adaptive: float = Field(0.5, gt=0, lt=1, description="max adaptive threshold: the organ is more likely than not")
    adaptive_share: float = Field(0.5, gt=0, lt=1, description="adaptive threshold, as a share of the map's maximum")
    max_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="max threshold of an atlas, as a share of the map's maximum, so that a region is never empty",
    )
    min_references: int = Field(3, ge=2, description="min number of references for finding thresholds by leaving one out")
    step: float = Field(0.05, ge=0.01, lt=0.5, description="distance between the thresholds that are tried")


def threshold_of(rule: ThresholdRule, organ: int, scores: ScoreMaps, table: OrganTable, config: ThresholdsConfig) -> float:
    """Returns the score above which a voxel counts as the organ's.

    Args:
        rule: `atlas`: the best threshold found for the atlas, or the adaptive one if none was found. `published`: the threshold
            of the published method, made for 15 references and their plain mean. `adaptive`: a share of the map's
            maximum (by default half of it), limited to `max_adaptive`.
        organ: the organ number.
        scores: the target's score maps.
        table: contains the published thresholds.
        config: the settings of the rules `atlas` and `adaptive`.
    """
    if rule == "published":
        return table[organ].published_threshold
    score = scores.maps[organ]
    adaptive = adaptive_threshold(score, config)
    if rule == "adaptive":
        return adaptive
    return min(scores.thresholds.get(organ, adaptive), config.max_share * score.maximum)


def adaptive_threshold(score: ScoreMap, config: ThresholdsConfig) -> float:
    """Returns the adaptive threshold of a score map: a share of its maximum, limited by `max_adaptive`."""
    return min(config.max_adaptive, config.adaptive_share * score.maximum)
