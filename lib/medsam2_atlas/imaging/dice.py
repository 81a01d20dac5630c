"""Dice per organ."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Dice coefficient of two boolean masks of the same shape, 0..1; NaN if both are empty."""
    size = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / size if size else float("nan")


def dice_per_organ(labels: np.ndarray, truth: np.ndarray, organs: Iterable[int]) -> dict[int, float]:
    """Returns Dice of each organ that the truth holds; organs that it lacks are left out, whatever the prediction says.

    Args:
        labels: predicted label map `[z, y, x]`.
        truth: true label map of the same shape.
        organs: organ numbers.
    """
    result = {}
    for k in organs:
        mask = truth == k
        if mask.any():
            result[k] = dice(labels == k, mask)
    return result


def mean_dice(scores: dict[int, float]) -> float:
    """Returns the mean over the organs."""
    return float(np.mean(list(scores.values()))) if scores else float("nan")
