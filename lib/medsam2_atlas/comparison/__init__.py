"""Compares two segmenters over a studies folder, as figures, plots and a page."""

from medsam2_atlas.comparison.page import write_comparison
from medsam2_atlas.comparison.studies import CaseComparison, Comparison, compare_studies

__all__ = ["CaseComparison", "Comparison", "compare_studies", "write_comparison"]
