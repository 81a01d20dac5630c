"""The Dice coefficient of masks and label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Dice coefficient of two boolean masks of the same shape, 0..1; NaN if both are empty.

    >>> f"{dice(np.array([True, True, False]), np.array([True, False, False])):.2f}"
    '0.67'
    """
    size = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / size if size else float("nan")


def dice_per_organ(labels: np.ndarray, truth: np.ndarray, organs: Iterable[int]) -> dict[int, float]:
    """Returns the Dice coefficient of each organ in the ground truth, by organ number, 0..1.

    Organs that the ground truth lacks are omitted, even if the prediction contains them.

    Args:
        labels: predicted label map `[z, y, x]`, organ numbers.
        truth: ground-truth label map of the same shape.
        organs: numbers of the organs to compare.
    """
    result = {}
    for k in organs:
        mask = truth == k
        if mask.any():
            result[k] = dice(labels == k, mask)
    return result


def mean_dice(scores: dict[int, float]) -> float:
    """Returns the mean Dice coefficient over the organs; NaN if there are none."""
    return float(np.mean(list(scores.values()))) if scores else float("nan")
