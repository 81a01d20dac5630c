"""A set of studies: where its files lie, what models predicted for it, and the atlas that grows with it."""

from medsam2_atlas.studies.growth import (
    StudiesGrowthOptions,
    atlas_store,
    excluded_references,
    grow_studies_atlas,
    grown_atlas,
)
from medsam2_atlas.studies.predictions import (
    Prediction,
    PredictionStore,
    Provenance,
    file_stamp,
    foundation_provenance,
    unet_provenance,
)

__all__ = [
    "Prediction",
    "PredictionStore",
    "Provenance",
    "StudiesGrowthOptions",
    "atlas_store",
    "excluded_references",
    "file_stamp",
    "foundation_provenance",
    "grow_studies_atlas",
    "grown_atlas",
    "unet_provenance",
]
