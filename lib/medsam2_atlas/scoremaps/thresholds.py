"""The rules by which a threshold turns an organ's score map into its prompting region."""

from __future__ import annotations

from pydantic import Field

from medsam2_atlas.base.choices import ThresholdRule
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.step import StepConfig


class ThresholdsConfig(StepConfig):
    """Rules of thresholds. Switched off, an atlas' own thresholds are not used."""

    max_adaptive: float = Field(0.5, gt=0, lt=1, description="highest adaptive threshold: more likely the organ than not")
    adaptive_share: float = Field(0.5, gt=0, lt=1, description="of a map's maximum: the adaptive threshold of a map below 1")
    max_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="share of a map's maximum that no threshold of an atlas exceeds, so that a region is never empty",
    )
    min_references: int = Field(3, ge=2, description="references from which on thresholds can be found by leaving one out")
    step: float = Field(0.05, ge=0.01, lt=0.5, description="between the thresholds that are tried")


def threshold_of(rule: ThresholdRule, organ: int, scores: ScoreMaps, table: OrganTable, config: ThresholdsConfig) -> float:
    """Returns the score above which a voxel counts as the organ's.

    Args:
        rule: "atlas", the threshold that was found best for the atlas, or the adaptive one if none was found; "published", made
            for 15 references and their plain mean; "adaptive", half the map's maximum, at most 0.5.
        organ: number.
        scores: of the target.
        table: holds the published thresholds.
        config: of the two other rules.
    """
    if rule == "published":
        return table[organ].published_threshold
    score = scores.maps[organ]
    adaptive = adaptive_threshold(score, config)
    if rule == "adaptive":
        return adaptive
    return min(scores.thresholds.get(organ, adaptive), config.max_share * score.maximum)


def adaptive_threshold(score: ScoreMap, config: ThresholdsConfig) -> float:
    """Returns the adaptive threshold of an organ, from its map's maximum."""
    return min(config.max_adaptive, config.adaptive_share * score.maximum)
