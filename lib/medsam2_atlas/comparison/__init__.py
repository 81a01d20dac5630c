"""Two segmenters side by side over a studies folder: figures, plots, a page."""

from medsam2_atlas.comparison.page import write_comparison
from medsam2_atlas.comparison.studies import CaseComparison, Comparison, compare_studies

__all__ = ["CaseComparison", "Comparison", "compare_studies", "write_comparison"]
