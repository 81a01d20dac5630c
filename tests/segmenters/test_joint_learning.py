"""The weights of the joint fusion are learnt from cases with ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps
from medsam2_atlas.segmenters.joint_config import JointFusionConfig
from medsam2_atlas.segmenters.joint_fusion import JointWeights, fuse_jointly
from medsam2_atlas.segmenters.joint_learning import Sample, learn_weights, sample_voxels, sampled_dice, soft_dice

SHAPE = (12, 40, 40)
CONFIG = JointFusionConfig.model_validate({})
FALLING = CONFIG.model_copy(update={"agreement_power": 1.0})
GOOD_MAP, GOOD_NETWORK = 6, 7
"""Organs whose map, or whose network, is right; the other source is shifted."""


def block(x: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2:10, 8:30, x : x + 12] = True
    return mask


def made_case(noise: int = 0, off: int | None = None) -> tuple[dict[int, OrganLogits], ScoreMaps, np.ndarray]:
    """Returns logits, score maps and ground truth of two organs; with `off`, the map is right and the network off by that."""
    generator = np.random.default_rng(noise)
    grid = Geometry((40, 40, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    truth = np.zeros(SHAPE, np.uint8)
    maps, logits = {}, {}
    for k, x, map_shift, network_shift in ((GOOD_MAP, 4, 0, 3), (GOOD_NETWORK, 22, 3, 0)):
        truth[block(x)] = k
        if off is not None:
            map_shift, network_shift = 0, off
        values = np.where(block(x + map_shift), 0.9, 0.05) * (generator.random(SHAPE) < 0.98)
        maps[k] = ScoreMap(np.rint(values * 255).astype(np.uint8), (0, 0, 0), 1.0)
        found = np.where(block(x + network_shift), 4.0, -4.0) + generator.normal(0, 1, SHAPE)
        logits[k] = OrganLogits(k, 0, torch.from_numpy(found.astype(np.float32)))
    return logits, ScoreMaps(maps, grid, 1, Transform(), Transform()), truth


def sample(noise: int = 0, **settings: Any) -> Sample:
    config = CONFIG.model_copy(update=settings)
    return sample_voxels(*made_case(noise), config, np.random.default_rng(1))


def dice(labels: np.ndarray, truth: np.ndarray, k: int) -> float:
    return float(2 * ((labels == k) & (truth == k)).sum() / ((labels == k).sum() + (truth == k).sum()))


def test_the_source_that_is_right_gets_the_higher_weight_and_the_dice_rises() -> None:
    found = learn_weights([sample(1), sample(2)], CONFIG)
    assert found.maps[GOOD_MAP] / found.network[GOOD_MAP] > 1.5
    assert found.network[GOOD_NETWORK] / found.maps[GOOD_NETWORK] > 1.3
    logits, scores, truth = made_case(3)
    before, after = (fuse_jointly(logits, scores, weights).labels for weights in (JointWeights(), found))
    for k in (GOOD_MAP, GOOD_NETWORK):
        assert dice(after, truth, k) > max(0.95, dice(before, truth, k) - 1e-3)


def test_the_usual_agreement_is_learnt_and_lowers_a_network_that_is_farther_off_than_usual() -> None:
    usual = learn_weights([sample(1), sample(2)], CONFIG)
    expected = (fuse_jointly(*made_case(n)[:2], config=CONFIG).disagreement for n in (1, 2))
    means = {
        k: 1 - float(np.mean(values))
        for k, values in zip((6, 7), zip(*(d.values() for d in expected), strict=True), strict=True)
    }
    assert usual.agreement == pytest.approx(means)
    logits, scores, truth = made_case(5, 9)
    fixed, falling = (fuse_jointly(logits, scores, usual, config).labels for config in (CONFIG, FALLING))
    assert dice(falling, truth, GOOD_NETWORK) > dice(fixed, truth, GOOD_NETWORK) + 0.02


def test_a_penalty_and_bounds_keep_the_weights_near_one() -> None:
    strict = learn_weights([sample()], CONFIG.model_copy(update={"learn_penalty": 100.0}))
    values = [*strict.network.values(), *strict.maps.values()]
    assert values == pytest.approx([1.0] * 4, abs=0.01)
    loose = learn_weights([sample()], CONFIG.model_copy(update={"learn_penalty": 0.0, "max_weight": 1.5}))
    values = [*loose.network.values(), *loose.maps.values()]
    assert 1 / 1.5 - 1e-6 <= min(values) <= max(values) <= 1.5 + 1e-6


def test_sampled_voxels_estimate_the_dice_of_the_fused_label_map() -> None:
    logits, scores, truth = made_case()
    weights = JointWeights({GOOD_MAP: 0.5}, {GOOD_MAP: 2.0}, {GOOD_NETWORK: 0.95})
    labels = fuse_jointly(logits, scores, weights, FALLING).labels
    expected = {k: dice(labels, truth, k) for k in (GOOD_MAP, GOOD_NETWORK)}
    assert sampled_dice(sample(learn_voxels=1500), weights, FALLING) == pytest.approx(expected, abs=0.02)


def test_sampled_voxels_estimate_the_dice_of_all_voxels() -> None:
    ones = torch.ones(2)
    whole, part = sample(learn_voxels=10**6), sample(learn_voxels=1500)
    assert len(part.truth) < 0.7 * len(whole.truth)
    assert soft_dice(part, ones, ones).tolist() == pytest.approx(soft_dice(whole, ones, ones).tolist(), abs=0.02)


def test_voxels_that_no_source_reaches_lower_the_dice() -> None:
    logits, scores, truth = made_case()
    truth[:, :6] = GOOD_MAP  # far from map and mask
    far = sample_voxels(logits, scores, truth, CONFIG.model_copy(update={"reach": 0.0}), np.random.default_rng(1))
    assert far.unreachable[0] > 0
    ones = torch.ones(2)
    assert soft_dice(far, ones, ones)[0] < soft_dice(sample(), ones, ones)[0] - 0.1


def test_an_organ_that_the_ground_truth_lacks_does_not_count() -> None:
    logits, scores, truth = made_case()
    truth[truth == GOOD_MAP] = 0
    one = sample_voxels(logits, scores, truth, CONFIG, np.random.default_rng(1))
    assert soft_dice(one, torch.ones(2), torch.ones(2)).shape == (1,)
