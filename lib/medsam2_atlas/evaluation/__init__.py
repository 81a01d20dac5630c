"""How good a label map is."""

from medsam2_atlas.evaluation.dice import dice_per_organ, mean_dice

__all__ = ["dice_per_organ", "mean_dice"]
