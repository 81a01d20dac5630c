"""The Dice coefficient of two masks, for tests of one organ."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.evaluation import dice_per_organ


def mask_dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Returns the Dice coefficient of two boolean masks, by the project's own metric; `mask` must not be empty."""
    return dice_per_organ(found.astype(np.uint8), mask.astype(np.uint8), [1])[1]
