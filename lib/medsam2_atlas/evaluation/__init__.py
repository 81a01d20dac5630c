"""Scores label maps against the ground truth and against each other."""

from medsam2_atlas.evaluation.agreement import DISAGREEMENT_LABELS, Agreement, compare_segmentations, comparison_report
from medsam2_atlas.evaluation.break_even import break_even
from medsam2_atlas.evaluation.config import EvaluationConfig, evaluation_config
from medsam2_atlas.evaluation.metrics import OrganScore, compare_labels
from medsam2_atlas.evaluation.prompt_error import PromptError, prompt_errors
from medsam2_atlas.evaluation.published import Published, published
from medsam2_atlas.evaluation.scoring import mean_scores, rounded_mean, score_files
from medsam2_atlas.imaging.dice import dice_per_organ, mean_dice

__all__ = [
    "DISAGREEMENT_LABELS",
    "Agreement",
    "EvaluationConfig",
    "OrganScore",
    "PromptError",
    "Published",
    "break_even",
    "compare_labels",
    "compare_segmentations",
    "comparison_report",
    "dice_per_organ",
    "evaluation_config",
    "mean_dice",
    "mean_scores",
    "prompt_errors",
    "published",
    "rounded_mean",
    "score_files",
]
