"""The joint fusion of score maps and logits in strategy F."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps
from medsam2_atlas.segmenters import joint_fusion
from medsam2_atlas.segmenters.joint_config import JointFusionConfig
from medsam2_atlas.segmenters.joint_fusion import JointWeights, fuse_jointly
from medsam2_atlas.segmenters.joint_parts import temperature

SIDE, DEPTH = 32, 12
PLAIN = JointFusionConfig.model_validate({"spread": 0.0, "reach": 8.0})


def scores_of(*maps: tuple[int, np.ndarray], stride: int = 1, side: int = SIDE) -> ScoreMaps:
    """Returns score maps of probabilities `[z, y, x]` on a grid of 2 mm whose pixels are reduced by `stride`."""
    grid = Geometry((side, side, DEPTH), (2.0 / stride, 2.0 / stride, 2.0), (0.0, 0.0, 0.0))
    found = {k: ScoreMap(np.rint(values * 255).astype(np.uint8), (0, 0, 0), 1.0).cropped() for k, values in maps}
    return ScoreMaps(found, grid, stride, Transform(), Transform())  # type: ignore[arg-type]


def block(x: slice, value: float = 0.9, y: slice = slice(8, 24), z: slice = slice(2, 10)) -> np.ndarray:
    values = np.zeros((DEPTH, SIDE, SIDE))
    values[z, y, x] = value
    return values


def logits_of(k: int, mask: np.ndarray, value: float = 4.0, z_min: int = 0) -> OrganLogits:
    return OrganLogits(k, z_min, torch.from_numpy(np.where(mask, value, -value).astype(np.float32)))


def test_sum_of_weighted_logits_and_log_odds_decides_against_the_background() -> None:
    """At p = .3, log odds are −.85: a logit of 0.8 leaves the background, 0.9 does not, and a weight of 2 on the map does."""
    scores = scores_of((6, block(slice(4, 12), 0.3) + block(slice(12, 28), 1.0)))
    for logit, weight, expected in ((0.8, 1.0, 0), (0.9, 1.0, 6), (0.9, 2.0, 0), (1.8, 2.0, 6)):
        values = np.full((DEPTH, SIDE, SIDE), 4.0, np.float32)
        values[:, :, 4:12] = logit
        found = fuse_jointly({6: OrganLogits(6, 0, torch.from_numpy(values))}, scores, JointWeights({}, {6: weight}), PLAIN)
        assert found.labels[5, 16, 8] == expected, (logit, weight)
        assert found.labels[5, 16, 20] == 6
        assert found.labels[0, 0, 0] == 0


def test_the_organ_with_the_higher_sum_gets_the_voxel_and_others_lower_the_background() -> None:
    sure = {"z": slice(9, 10)}
    maps = (
        block(slice(4, 28), 0.5) + block(slice(4, 16), 0.5, **sure),
        block(slice(16, 28), 0.45) + block(slice(16, 28), 0.55, **sure),
    )
    scores = scores_of((6, maps[0]), (7, maps[1]))
    body = block(slice(4, 28)) > 0
    equal = fuse_jointly({6: logits_of(6, body), 7: logits_of(7, body)}, scores, config=PLAIN).labels
    assert (equal[5, 16, 8], equal[5, 16, 20]) == (6, 6)
    # The map of 7 has the smaller log odds, but its network is surer.
    surer = fuse_jointly({6: logits_of(6, body, 4.0), 7: logits_of(7, body, 8.0)}, scores, config=PLAIN).labels
    assert (surer[5, 16, 8], surer[5, 16, 20]) == (6, 7)


def test_an_organ_that_the_network_lost_is_kept_from_its_map() -> None:
    scores = scores_of((6, block(slice(4, 12))), (7, block(slice(18, 28))))
    lost = {6: logits_of(6, np.zeros((DEPTH, SIDE, SIDE), bool)), 7: logits_of(7, block(slice(18, 28)) > 0)}
    found = fuse_jointly(lost, scores, config=PLAIN)
    assert (found.labels == 6).sum() == pytest.approx(8 * 16 * 8)
    assert found.disagreement == {6: 1.0, 7: 0.0}


def test_a_leak_far_from_the_map_is_cut_and_an_edge_near_it_is_the_network_s() -> None:
    scores = scores_of((6, block(slice(4, 12), 0.7)))
    leak = (block(slice(4, 14)) + block(slice(14, 32), y=slice(14, 18))) > 0
    found = fuse_jointly(
        {6: logits_of(6, leak)}, scores, config=JointFusionConfig.model_validate({"spread": 3.0, "spread_share": 1.0})
    )
    assert (found.labels[5, 16, 8:14] == 6).all(), "the network may move the border by a few millimetres"
    assert (found.labels[5, 16, 18:] == 0).all()


def test_a_slice_without_logits_is_decided_by_the_map() -> None:
    scores = scores_of((6, block(slice(4, 12))))
    some = OrganLogits(6, 4, torch.full((3, SIDE, SIDE), -8.0))
    some.values[:, 8:24, 4:12] = 8.0
    labels = fuse_jointly({6: some}, scores, config=PLAIN).labels
    assert [int(plane[16, 8]) for plane in labels] == [0, 0, *[6] * 8, 0, 0]


def test_organs_without_a_prompt_are_left_out() -> None:
    scores = scores_of((6, block(slice(4, 12))), (7, block(slice(18, 28))))
    assert set(np.unique(fuse_jointly({7: logits_of(7, block(slice(18, 28)) > 0)}, scores, config=PLAIN).labels)) == {0, 7}
    assert not fuse_jointly({}, scores, config=PLAIN).labels.any()


def test_an_organ_that_the_atlas_lacks_is_the_network_s() -> None:
    """A U-Net can prompt organs without a score map."""
    mask = block(slice(18, 28)) > 0
    scores = scores_of((6, block(slice(4, 12))), (8, np.zeros((DEPTH, SIDE, SIDE))))
    labels = fuse_jointly({7: logits_of(7, mask), 8: logits_of(8, block(slice(4, 8)) > 0, 1.0)}, scores, config=PLAIN).labels
    assert ((labels == 7) == mask).all()
    assert (labels == 8).any()


def test_the_scale_of_the_logits_does_not_matter() -> None:
    scores = scores_of((6, block(slice(4, 14), 0.6)))
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(DEPTH, SIDE, SIDE, generator=generator) + torch.from_numpy(block(slice(6, 16), 4.0) - 2).float()
    results = [fuse_jointly({6: OrganLogits(6, 0, values * scale)}, scores, config=PLAIN).labels for scale in (1.0, 7.0)]
    assert (results[0] == results[1]).all()
    assert temperature({6: OrganLogits(6, 0, values * 7)}, PLAIN) == pytest.approx(
        7 * temperature({6: OrganLogits(6, 0, values)}, PLAIN)
    )
    assert temperature({6: OrganLogits(6, 0, -values.abs())}, PLAIN) == 1.0


@pytest.mark.parametrize("side", [SIDE * 3, SIDE * 3 - 2])
def test_reduced_maps_and_small_logits_are_interpolated_as_in_the_other_strategies(side: int) -> None:
    scores = scores_of((6, block(slice(4, 20), 0.8)), stride=3, side=side)
    small = torch.randn(DEPTH, 16, 16, generator=torch.Generator().manual_seed(2))
    found = fuse_jointly({6: OrganLogits(6, 0, small)}, scores, config=PLAIN).labels
    odds = np.where(block(slice(4, 20)) > 0, np.log(0.8 / 0.2), np.log(PLAIN.min_score)) - np.log(0.4 / 0.6)
    wide = F.interpolate(torch.from_numpy(odds).float()[None], scale_factor=3, mode="bilinear")[0, :, :side, :side]
    heat = temperature({6: OrganLogits(6, 0, small)}, PLAIN)
    planes = F.interpolate(small[None] / heat, size=(side, side), mode="bilinear")[0].clamp(-PLAIN.max_logit, PLAIN.max_logit)
    expected = (planes + wide > 0).numpy()
    assert (found == 6).sum() > 1000
    assert (keep_largest_components(expected[..., :side, :side].astype(np.uint8) * 6) == found).mean() > 0.9999


def test_the_network_counts_less_where_both_sources_agree_less_than_in_the_learning() -> None:
    """The network shifts both organs by the same distance, which is a larger share of the narrow one: only it keeps its map."""
    maps = (6, block(slice(2, 18), 0.9)), (7, block(slice(22, 26), 0.9))
    shifted = {6: logits_of(6, block(slice(4, 20)) > 0), 7: logits_of(7, block(slice(24, 28)) > 0)}
    usual = JointWeights(agreement={6: 0.8, 7: 0.8})
    power = [PLAIN.model_copy(update={"agreement_power": value}) for value in (0.0, 1.0)]
    before, after = (fuse_jointly(shifted, scores_of(*maps), usual, config) for config in power)
    assert before.disagreement == after.disagreement == pytest.approx({6: 4 / 18, 7: 4 / 6})
    assert (before.labels[5, 16, 22:24] == 0).all(), "logits of 4 overrule log odds of ln 9"
    assert (after.labels[5, 16, 22:24] == 7).all(), "their weight of (1/3) / .8 does not"
    assert (after.labels[5, 16, 2:4] == 0).all(), "a weight of (14/18) / .8 does"
    plain = fuse_jointly(shifted, scores_of(*maps), config=power[1]).labels
    assert (plain == before.labels).all(), "without learning, nothing is known about the usual agreement"


def test_the_network_keeps_its_weight_where_both_sources_agree_more_than_in_the_learning() -> None:
    config = PLAIN.model_copy(update={"agreement_power": 2.0})
    weights = JointWeights({6: 0.5}, {}, {6: 0.6})
    assert [weights.of_network(6, share, config) for share in (1.0, 0.6, 0.3, 0.0)] == pytest.approx([0.5, 0.5, 0.125, 0.0])
    assert weights.of_network(7, 0.1, config) == 1.0


def test_the_network_keeps_its_weight_for_an_organ_that_the_atlas_lacks() -> None:
    logits = {7: logits_of(7, block(slice(18, 28)) > 0)}
    config = PLAIN.model_copy(update={"agreement_power": 1.0})
    found = fuse_jointly(logits, scores_of((6, block(slice(4, 12)))), JointWeights(agreement={7: 0.9}), config)
    assert found.disagreement == {7: 1.0}
    assert (found.labels == 7).sum() == 8 * 16 * 10


def test_weights_without_agreement_have_none_in_their_json() -> None:
    assert JointWeights({6: 0.5}).as_json() == {"network": {"liver": 0.5}, "maps": {}}
    assert JointWeights({6: 0.5}, {}, {6: 0.25}).as_json() == {
        "network": {"liver": 0.5},
        "maps": {},
        "agreement": {"liver": 0.25},
    }


def test_blocks_of_slices_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of((6, block(slice(4, 18), 0.6)), (7, block(slice(14, 28), 0.5)))
    logits = {6: logits_of(6, block(slice(4, 16)) > 0), 7: logits_of(7, block(slice(16, 28)) > 0)}
    whole = fuse_jointly(logits, scores)
    monkeypatch.setattr(joint_fusion, "_SLICES", 5)
    parts = fuse_jointly(logits, scores)
    assert (whole.labels == parts.labels).all()
    assert whole.disagreement == parts.disagreement
    assert 0 < whole.disagreement[6] < 0.5
