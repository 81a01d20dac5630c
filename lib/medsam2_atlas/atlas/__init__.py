"""The atlas of annotated CTs: building it, letting it grow, storing it, and the score maps it gives for a target."""

from medsam2_atlas.atlas.appearance import AppearanceConfig, corrected
from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.bending import BendingConfig
from medsam2_atlas.atlas.build import build_atlas, find_references
from medsam2_atlas.atlas.evidence import EVIDENCE
from medsam2_atlas.atlas.grow import Growth, grow_atlas
from medsam2_atlas.atlas.maps import ScoreMap, ScoreMaps
from medsam2_atlas.atlas.reference import Reference, ReferenceFiles, novelty, thumbnail_distance, thumbnail_of
from medsam2_atlas.atlas.scores import fused_scores, score_maps, warp_maps
from medsam2_atlas.atlas.store import AtlasStore, resolve_atlas
from medsam2_atlas.atlas.thresholds import Thresholds, find_thresholds, thresholds_of, with_thresholds
from medsam2_atlas.atlas.voting import FusionConfig, fusion_config, vote

__all__ = [
    "EVIDENCE",
    "AppearanceConfig",
    "Atlas",
    "AtlasStore",
    "BendingConfig",
    "FusionConfig",
    "Growth",
    "ProbabilityMap",
    "Reference",
    "ReferenceFiles",
    "ScoreMap",
    "ScoreMaps",
    "Thresholds",
    "build_atlas",
    "corrected",
    "find_references",
    "find_thresholds",
    "fused_scores",
    "fusion_config",
    "grow_atlas",
    "novelty",
    "resolve_atlas",
    "score_maps",
    "thumbnail_distance",
    "thresholds_of",
    "thumbnail_of",
    "vote",
    "warp_maps",
    "with_thresholds",
]
