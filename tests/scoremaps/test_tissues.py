"""An organ is never bone or gas, whatever the contrast phase of target and references."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from medsam2_atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.prompting import ConfidenceConfig, confidence
from medsam2_atlas.registration import Transform, WorkImage
from medsam2_atlas.scoremaps import (
    Alignment,
    BendConfig,
    CorrectConfig,
    HistogramConfig,
    Intensities,
    RestoreConfig,
    ScoreMap,
    ScoreMaps,
    TissueConfig,
    Warped,
    correct,
    warp_jointly,
)
from medsam2_atlas.scoremaps.restoring import restored
from medsam2_atlas.scoremaps.tissues import hu_limits, is_enhanced

SHAPE = (40, 50, 60)
GRID = Geometry(SHAPE[::-1], (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
EVERYWHERE = CroppedMap(np.full(SHAPE, 255, np.uint8), (0, 0, 0))
TISSUES = TissueConfig.model_validate({})
AORTA, KIDNEYS = 8, (2, 3)


def tube(y: float, x: float, radius: float) -> np.ndarray:
    grid = np.indices(SHAPE)
    inside: np.ndarray = (grid[1] - y) ** 2 + (grid[2] - x) ** 2 <= radius**2
    inside[:3] = inside[-3:] = False
    return inside


def ball(z: float, y: float, x: float, radius: float) -> np.ndarray:
    inside: np.ndarray = ((np.indices(SHAPE) - np.array([z, y, x]).reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius**2
    return inside


TRUTH, SPINE = tube(20, 30, 3.2), tube(30, 30, 6.5)
LEFT, RIGHT = ball(20, 28, 48, 6), ball(20, 28, 12, 6)


def ct(blood: float, kidneys: float) -> Volume:
    """Returns a body of fat with a spine, an aorta in front of it and kidneys, in HU."""
    array = np.random.default_rng(5).normal(-100, 8, SHAPE)
    for mask, hu in ((tube(26, 30, 14), 20.0), (SPINE, 260.0), (TRUTH, blood), (LEFT | RIGHT, kidneys)):
        array[mask] = np.random.default_rng(6).normal(hu, 8, int(mask.sum()))
    return Volume(array.astype(np.float32), GRID, GRID)


def maps_of(masks: Mapping[int, np.ndarray]) -> ScoreMaps:
    scores = {k: ScoreMap((m * 255).astype(np.uint8), (0, 0, 0), 1.0) for k, m in masks.items()}
    return ScoreMaps(scores, GRID, 1, Transform(()), Transform(()))


def histograms(*, enabled: bool) -> HistogramConfig:
    return HistogramConfig.model_validate({"tissues": {"enabled": enabled}})


def in_spine(scores: ScoreMaps) -> float:
    """Returns the share of the aorta's map that lies in the spine."""
    values = scores.maps[AORTA].uncropped(SHAPE).astype(float)
    return float(values[SPINE & ~TRUTH].sum() / values.sum())


def test_an_aorta_registered_into_a_vertebra_leaves_it_in_a_target_without_contrast() -> None:
    registered = maps_of({AORTA: np.roll(TRUTH, 5, 1), 2: RIGHT, 3: LEFT})  # 15 mm behind its place
    shares = {}
    for enabled in (False, True):
        seen = Intensities.of(ct(45, 35), registered, [KIDNEYS], histograms(enabled=enabled))
        bent = warp_jointly(registered, EVERYWHERE, seen, BendConfig.model_validate({}))
        shares[enabled] = in_spine(correct(*bent, seen, CorrectConfig.model_validate({})))
    assert in_spine(registered) > 0.4
    assert shares[False] > 0.5  # without the limits, the map goes further into the bone
    assert shares[True] < 0.1


@pytest.mark.parametrize(("blood", "kidneys", "enhanced"), [(45, 35, False), (290, 185, True), (155, 180, True)])
def test_kidneys_tell_whether_a_target_has_contrast(blood: float, kidneys: float, enhanced: bool) -> None:
    registered = maps_of({AORTA: TRUTH, 2: np.roll(RIGHT, 4, 1), 3: np.roll(LEFT, -4, 2)})  # half of each lies beside its organ
    seen = Intensities.of(ct(blood, kidneys), registered, [KIDNEYS], histograms(enabled=True))
    assert seen.enhanced is enhanced
    assert seen.possible[AORTA][-1] == enhanced  # bright bins are possible with contrast only
    assert not seen.possible[AORTA][0]  # an aorta never contains gas


def test_contrast_is_unknown_without_kidneys_and_spleen() -> None:
    seen = Intensities.of(ct(45, 35), maps_of({AORTA: TRUTH}), [], histograms(enabled=True))
    assert seen.enhanced is None
    assert seen.possible[AORTA][-1]
    assert is_enhanced(np.full(3, 40.0), np.ones(3), TISSUES) is None  # too few voxels


def test_hollow_organs_may_contain_gas_and_contrast() -> None:
    assert hu_limits(False, 7, TISSUES) == (-np.inf, np.inf)
    assert hu_limits(False, 6, TISSUES) == (TISSUES.min_solid, TISSUES.max_unenhanced)
    assert hu_limits(True, 6, TISSUES) == (TISSUES.min_solid, np.inf)


def warped(target: Volume, scores: ScoreMaps, expected: Mapping[int, np.ndarray], contrast: Volume) -> Warped:
    """Returns registered score maps, with an atlas of one reference with contrast."""
    template = WorkImage(torch.from_numpy(contrast.array), torch.ones(SHAPE, dtype=torch.bool), torch.zeros(3), 3.0)
    maps = {k: ProbabilityMap((m * 255).astype(np.uint8), np.zeros(3, np.float32), 1) for k, m in expected.items()}
    work = WorkImage(torch.from_numpy(target.array), torch.ones(SHAPE, dtype=torch.bool), torch.zeros(3), 3.0)
    alignment = Alignment(target, work, Atlas(template, maps, ()), Transform(), Transform())
    return Warped(alignment, scores, scores, EVERYWHERE)


def volume_of(scores: ScoreMaps, organ: int) -> float:
    return float((scores.maps[organ].uncropped(SHAPE) > 25).sum())


def test_an_aorta_that_shrank_because_the_target_lacks_its_contrast_is_restored() -> None:
    others = {6: ball(20, 10, 12, 5), 7: ball(20, 10, 48, 5), 10: ball(10, 10, 30, 4)}
    expected = {AORTA: TRUTH, 2: RIGHT, 3: LEFT, **others}
    thin = tube(20, 30, 1.6)
    scores = maps_of({**expected, AORTA: thin})
    config, counts = RestoreConfig.model_validate({}), histograms(enabled=True)
    found = restored(warped(ct(45, 170), scores, expected, ct(290, 185)), counts, config)
    faded = found.scores
    assert list(found.growth) == [AORTA]
    assert found.growth[AORTA] > 0.9  # ln of the volumes' ratio
    assert volume_of(scores, AORTA) < 0.4 * TRUTH.sum()
    assert 0.7 * TRUTH.sum() < volume_of(faded, AORTA) < 1.5 * TRUTH.sum()
    assert all(np.array_equal(faded.maps[k].values, scores.maps[k].values) for k in (2, 3, *others))
    evidence = {"certain": 0.9, "kept": 0.9, "size": 0.1, "similar": 0.9, "agreement": 0.8, "visible": 1.0}
    before, after = (confidence({**evidence, "restored": v}, ConfidenceConfig()) for v in (0.0, found.growth[AORTA]))
    assert before is not None
    assert after is not None
    assert after < before - 0.1
    same_phase = restored(warped(ct(290, 185), scores, expected, ct(290, 185)), counts, config).scores
    assert np.array_equal(same_phase.maps[AORTA].values, scores.maps[AORTA].values)
    few = config.model_copy(update={"min_organs": 9})
    alone = restored(warped(ct(45, 170), scores, expected, ct(290, 185)), counts, few).scores
    assert np.array_equal(alone.maps[AORTA].values, scores.maps[AORTA].values)
