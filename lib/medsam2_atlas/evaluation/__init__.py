"""How good a label map is, and how far two ways to segment agree."""

from medsam2_atlas.evaluation.agreement import DISAGREEMENT_LABELS, Agreement, compare_segmentations, comparison_report
from medsam2_atlas.evaluation.metrics import OrganScore, compare_labels
from medsam2_atlas.evaluation.prompt_error import PromptError, prompt_errors
from medsam2_atlas.imaging.dice import dice_per_organ, mean_dice

__all__ = [
    "DISAGREEMENT_LABELS",
    "Agreement",
    "OrganScore",
    "PromptError",
    "compare_labels",
    "compare_segmentations",
    "comparison_report",
    "dice_per_organ",
    "mean_dice",
    "prompt_errors",
]
