"""Stored predictions of studies, the atlas that grows from their final labels, and the runner of segmenters."""

from medsam2_atlas.studies.as_published import published_options, use_published_method
from medsam2_atlas.studies.growth import (
    StudiesGrowthOptions,
    atlas_store,
    excluded_references,
    grow_studies_atlas,
    grown_atlas,
)
from medsam2_atlas.studies.predictions import Prediction, PredictionStore, file_stamp

__all__ = [
    "Prediction",
    "PredictionStore",
    "StudiesGrowthOptions",
    "atlas_store",
    "excluded_references",
    "file_stamp",
    "grow_studies_atlas",
    "grown_atlas",
    "published_options",
    "use_published_method",
]
