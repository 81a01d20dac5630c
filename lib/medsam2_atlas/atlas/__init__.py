"""The atlas of annotated CTs: building it, storing it, and the score maps it gives for a target."""

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap, Reference
from medsam2_atlas.atlas.build import ReferenceFiles, build_atlas, find_references
from medsam2_atlas.atlas.scores import ScoreMap, ScoreMaps, score_maps, warp_maps

__all__ = [
    "Atlas",
    "ProbabilityMap",
    "Reference",
    "ReferenceFiles",
    "ScoreMap",
    "ScoreMaps",
    "build_atlas",
    "find_references",
    "score_maps",
    "warp_maps",
]
