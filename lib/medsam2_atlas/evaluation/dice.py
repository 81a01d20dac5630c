"""Dice per organ, by MONAI's metric."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from monai.metrics.meandice import compute_dice


def dice_per_organ(labels: np.ndarray, truth: np.ndarray, organs: Iterable[int]) -> dict[int, float]:
    """Dice of each organ that the truth holds; organs that it lacks are left out, whatever the prediction says.

    Args:
        labels: predicted label map `[z, y, x]`.
        truth: true label map of the same shape.
        organs: organ numbers.
    """
    result = {}
    for k in organs:
        wanted = truth == k
        if wanted.any():
            pair = [torch.from_numpy(mask)[None, None] for mask in (labels == k, wanted)]
            result[k] = float(compute_dice(*pair, include_background=True))
    return result


def mean_dice(scores: dict[int, float]) -> float:
    """Mean over the organs."""
    return float(np.mean(list(scores.values()))) if scores else float("nan")
