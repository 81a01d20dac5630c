"""Runs segmenters on annotated CTs, and reports accuracy and cost."""

from medsam2_atlas.experiment.record import Cost, OrganResult, PromptScore, Record
from medsam2_atlas.experiment.results import EMPTY_RULES, METRICS, EmptyRule, Metric, Results
from medsam2_atlas.experiment.variant import Variant

__all__ = [
    "EMPTY_RULES",
    "METRICS",
    "Cost",
    "EmptyRule",
    "Metric",
    "OrganResult",
    "PromptScore",
    "Record",
    "Results",
    "Variant",
]
