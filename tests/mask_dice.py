"""Dice of two masks, for tests that look at one organ."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.evaluation import dice_per_organ


def mask_dice(found: np.ndarray, mask: np.ndarray) -> float:
    """By the project's own metric; `mask` must not be empty."""
    return dice_per_organ(found.astype(np.uint8), mask.astype(np.uint8), [1])[1]
