"""Dice per organ."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.evaluation import dice_per_organ, mean_dice


def test_dice_is_per_organ_and_leaves_out_what_the_truth_lacks() -> None:
    truth, found = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    truth[0, 0] = 6
    found[0, 0, :2] = 6
    truth[1, 1] = 1
    found[1, 2] = 7
    scores = dice_per_organ(found, truth, range(1, 16))
    assert scores == pytest.approx({6: 2 * 2 / 6, 1: 0.0})
    assert mean_dice(scores) == pytest.approx(1 / 3)
