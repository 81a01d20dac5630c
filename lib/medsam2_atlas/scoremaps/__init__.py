"""A target's score maps: the references' votes for each organ, warped to the target and corrected by its intensities.

`steps.STEPS` lists the steps.
"""

from medsam2_atlas.scoremaps.alignment import AlignConfig, Alignment, Target
from medsam2_atlas.scoremaps.atlas_thresholds import Thresholds, thresholds_of, with_thresholds
from medsam2_atlas.scoremaps.bending import BendConfig, warp_jointly
from medsam2_atlas.scoremaps.config import FusionConfig, fusion_config
from medsam2_atlas.scoremaps.correction import CorrectConfig, correct
from medsam2_atlas.scoremaps.evidence import EVIDENCE, EvidenceConfig
from medsam2_atlas.scoremaps.intensities import HistogramConfig, Intensities
from medsam2_atlas.scoremaps.leave_one_out import find_thresholds
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.restoring import RestoreConfig
from medsam2_atlas.scoremaps.scores import fused_scores, score_maps
from medsam2_atlas.scoremaps.sex import AssumedSex, SexConfig, estimated_sex
from medsam2_atlas.scoremaps.step import Step, StepConfig
from medsam2_atlas.scoremaps.steps import STEPS
from medsam2_atlas.scoremaps.thresholds import ThresholdsConfig, adaptive_threshold, threshold_of
from medsam2_atlas.scoremaps.tissues import TissueConfig
from medsam2_atlas.scoremaps.voting import VoteConfig, Votes
from medsam2_atlas.scoremaps.warping import WarpConfig, Warped

__all__ = [
    "EVIDENCE",
    "STEPS",
    "AlignConfig",
    "Alignment",
    "AssumedSex",
    "BendConfig",
    "CorrectConfig",
    "EvidenceConfig",
    "FusionConfig",
    "HistogramConfig",
    "Intensities",
    "RestoreConfig",
    "ScoreMap",
    "ScoreMaps",
    "SexConfig",
    "Step",
    "StepConfig",
    "Target",
    "Thresholds",
    "ThresholdsConfig",
    "TissueConfig",
    "VoteConfig",
    "Votes",
    "WarpConfig",
    "Warped",
    "adaptive_threshold",
    "correct",
    "estimated_sex",
    "find_thresholds",
    "fused_scores",
    "fusion_config",
    "score_maps",
    "threshold_of",
    "thresholds_of",
    "warp_jointly",
    "with_thresholds",
]
