"""Foundation model and U-Net side by side over a studies folder: figures, plots, a page."""

from medsam2_atlas.comparison.page import write_comparison
from medsam2_atlas.comparison.studies import CaseComparison, Comparison, Contestant, compare_studies, foundation, unet_baseline

__all__ = [
    "CaseComparison",
    "Comparison",
    "Contestant",
    "compare_studies",
    "foundation",
    "unet_baseline",
    "write_comparison",
]
