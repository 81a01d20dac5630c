"""Fusion of logits and score maps to one label map."""

from __future__ import annotations

import tracemalloc

import numpy as np
import torch

from medsam2_atlas.imaging.masks import keep_largest_components, without_specks
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.segmenters.fusion import fuse_logits


def logits(label: int, z_min: int, values: list[float]) -> OrganLogits:
    return OrganLogits(label, z_min, torch.stack([torch.full((4, 4), v) for v in values]))


def test_the_highest_logit_wins_and_the_background_has_logit_zero() -> None:
    found = fuse_logits({6: logits(6, 0, [-1.0, 2.0, 2.0]), 7: logits(7, 1, [3.0, 1.0, -0.1])}, (5, 8, 8))
    assert [int(plane[4, 4]) for plane in found] == [0, 7, 6, 0, 0]
    assert found.dtype == np.uint8


def test_only_the_largest_component_of_each_organ_stays() -> None:
    labels = np.zeros((3, 6, 6), np.uint8)
    labels[0, 0, :3] = 6
    labels[2, 5, 5] = 6
    labels[2, 0, 0] = 7
    kept = keep_largest_components(labels)
    assert kept[0, 0, :3].tolist() == [6, 6, 6]
    assert kept[2, 5, 5] == 0
    assert kept[2, 0, 0] == 7
    assert labels[2, 5, 5] == 6


def test_counting_components_copies_no_volume_to_64_bits() -> None:
    labels = np.ones((40, 64, 64), np.uint8)
    labels[20] = 0
    tracemalloc.start()
    try:
        keep_largest_components(labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * labels.size


def test_components_that_are_small_for_their_organ_are_removed() -> None:
    labels = np.zeros((3, 20, 20), np.uint8)
    labels[0, :15, :10] = 6
    labels[2, 0, 0] = 6
    labels[2, 10:12, 10:12] = 6
    labels[2, 19, 19] = 7
    kept = without_specks(labels, 0.01)
    assert kept[2, 0, 0] == 0
    assert (kept[labels == 7] == 7).all() and (kept == 6).sum() == 154
