"""A target's score maps: what the references vote for each organ, carried onto the target and corrected there."""

from medsam2_atlas.scoremaps.appearance import AppearanceConfig, corrected
from medsam2_atlas.scoremaps.bending import BendingConfig
from medsam2_atlas.scoremaps.evidence import EVIDENCE
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.scores import fused_scores, score_maps, warp_maps
from medsam2_atlas.scoremaps.thresholds import Thresholds, find_thresholds, thresholds_of, with_thresholds
from medsam2_atlas.scoremaps.voting import FusionConfig, fusion_config, vote

__all__ = [
    "AppearanceConfig",
    "BendingConfig",
    "EVIDENCE",
    "FusionConfig",
    "ScoreMap",
    "ScoreMaps",
    "Thresholds",
    "corrected",
    "find_thresholds",
    "fused_scores",
    "fusion_config",
    "score_maps",
    "thresholds_of",
    "vote",
    "warp_maps",
    "with_thresholds",
]
