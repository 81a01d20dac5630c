"""The atlas of annotated CTs: its construction, growth and storage."""

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.build import build_atlas, find_pairs, find_references
from medsam2_atlas.atlas.config import AtlasConfig, OutlierConfig, atlas_config
from medsam2_atlas.atlas.grow import Growth, grow_atlas
from medsam2_atlas.atlas.options import BuildOptions, GrowthOptions
from medsam2_atlas.atlas.reference import Reference, ReferenceFiles, novelty, thumbnail_distance, thumbnail_of
from medsam2_atlas.atlas.sex import guessed_sex, read_sexes
from medsam2_atlas.atlas.store import AtlasStore, resolve_atlas
from medsam2_atlas.atlas.subset import nested_subsets, subset

__all__ = [
    "Atlas",
    "AtlasConfig",
    "AtlasStore",
    "BuildOptions",
    "Growth",
    "GrowthOptions",
    "OutlierConfig",
    "ProbabilityMap",
    "Reference",
    "ReferenceFiles",
    "atlas_config",
    "build_atlas",
    "find_pairs",
    "find_references",
    "grow_atlas",
    "guessed_sex",
    "nested_subsets",
    "novelty",
    "read_sexes",
    "resolve_atlas",
    "subset",
    "thumbnail_distance",
    "thumbnail_of",
]
