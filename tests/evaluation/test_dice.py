"""Dice per organ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.meandice import compute_dice

from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.dice import dice


def test_dice_is_per_organ_and_omits_organs_missing_in_the_ground_truth() -> None:
    truth, found = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    truth[0, 0] = 6
    found[0, 0, :2] = 6
    truth[1, 1] = 1
    found[1, 2] = 7
    scores = dice_per_organ(found, truth, range(1, 16))
    assert scores == pytest.approx({6: 2 * 2 / 6, 1: 0.0})
    assert mean_dice(scores) == pytest.approx(1 / 3)


def test_dice_equals_that_of_monai() -> None:
    generator = np.random.default_rng(0)
    for share in (0.01, 0.5, 1.0):
        first, second = (generator.random((5, 6, 7)) < share for _ in range(2))
        pair = [torch.from_numpy(mask)[None, None] for mask in (first, second)]
        assert dice(first, second) == pytest.approx(float(compute_dice(*pair, include_background=True)), abs=1e-6)
    assert np.isnan(dice(np.zeros(3, bool), np.zeros(3, bool)))
