"""Anatomical rules: the sides of paired organs, the order of organs, segmented neighbours; and the confidence of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.prompting import (
    BoxPrompt,
    ConfidenceConfig,
    OrganPrompt,
    Prompts,
    by_stability,
    confidence,
    confidence_config,
    constrained,
    resolve_laterality,
)
from medsam2_atlas.registration import Affine, Transform
from medsam2_atlas.scoremaps import EVIDENCE, ScoreMap, ScoreMaps

TABLE = organ_table()
GRID = Geometry((60, 50, 20), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0))
RIGHT, LEFT = 2, 3


def scores_of(transform: Transform | None = None, **values: np.ndarray) -> ScoreMaps:
    maps = {int(k[1:]): ScoreMap((v * 255).astype(np.uint8), (0, 0, 0), 1.0) for k, v in values.items()}
    way = transform or Transform(())
    return ScoreMaps(maps, GRID, 1, way, way.inverse())


def prompt(label: int, x: float, sure: float) -> OrganPrompt:
    return OrganPrompt(label, 5, 9, (BoxPrompt(7, (x, 10.0, x + 8, 20.0)),), confidence=sure)


def cube(x: int, y: int = 20, size: int = 8) -> np.ndarray:
    mask = np.zeros(GRID.shape)
    mask[6:14, y : y + size, x : x + size] = 1
    return mask


def test_prompts_on_the_correct_sides_stay() -> None:
    both = Prompts((prompt(RIGHT, 10, 0.9), prompt(LEFT, 40, 0.2)))
    assert resolve_laterality(both, TABLE, scores_of()) == both


@pytest.mark.parametrize(("sure", "kept"), [((0.9, 0.2), RIGHT), ((0.2, 0.9), LEFT)])
def test_the_more_confident_of_two_swapped_organs_stays(sure: tuple[float, float], kept: int) -> None:
    found = resolve_laterality(Prompts((prompt(RIGHT, 40, sure[0]), prompt(LEFT, 10, sure[1]))), TABLE, scores_of())
    assert [p.label for p in found.prompts] == [kept]
    assert "kidney, whose prompt is more confident" in found.missing[RIGHT + LEFT - kept]


def test_sides_are_those_of_the_common_space_even_in_a_rotated_patient() -> None:
    half_a_turn = Transform((Affine(torch.diag(torch.tensor([-1.0, -1.0, 1.0])), torch.tensor([120.0, 100.0, 0.0])),))
    scores = scores_of(half_a_turn)
    assert scores.turned
    both = Prompts((prompt(RIGHT, 40, 0.9), prompt(LEFT, 10, 0.2)))
    assert resolve_laterality(both, TABLE, scores) == both


def test_organs_with_confident_prompts_are_first() -> None:
    prompts = Prompts((prompt(10, 5, 0.3), prompt(6, 5, 0.8), prompt(1, 5, 0.95)))
    assert by_stability(prompts) == ([1, 6], [10])
    unsure = Prompts((prompt(10, 5, 0.1), prompt(6, 5, 0.2), prompt(1, 5, 0.4)))
    assert by_stability(unsure) == ([1, 6], [10])


def test_a_map_loses_the_voxels_of_a_segmented_neighbour() -> None:
    liver = cube(20, size=10)
    scores = scores_of(k6=liver, k4=cube(26))
    found = constrained(scores, (liver * 6).astype(np.uint8), [4])
    left = np.argwhere(found.maps[4].values) + found.maps[4].lower
    assert left[:, 2].min() >= 30
    assert found.maps[6] is scores.maps[6]


def test_a_map_completely_inside_its_neighbour_stays_unchanged() -> None:
    liver = cube(20, size=16)
    found = constrained(scores_of(k6=liver, k4=cube(24)), (liver * 6).astype(np.uint8), [4])
    assert found.maps[4].values.sum() == cube(24).sum() * 255


def test_a_map_moves_with_its_shifted_neighbour() -> None:
    scores = scores_of(k6=cube(20), k10=cube(34))
    found = constrained(scores, (cube(20, y=26) * 6).astype(np.uint8), [10])
    rows = np.argwhere(found.maps[10].values)[:, 1] + found.maps[10].lower[1]
    assert 22 < rows.mean() < 30  # moves from 23.5 towards 29.5, the further the nearer its neighbour is
    assert rows.mean() > 25


def test_more_evidence_gives_more_confidence() -> None:
    config = ConfidenceConfig(bias=-2.0, weights=dict.fromkeys(EVIDENCE, 1.0))
    low, high = (dict.fromkeys(EVIDENCE, value) for value in (0.1, 0.9))
    first, second = confidence(low, config), confidence(high, config)
    assert first is not None and second is not None
    assert 0 < first < 0.5 < second < 1
    assert confidence({}, config) is None


def test_the_shipped_confidence_uses_all_evidence_and_ranks_a_good_map_above_a_poor_one() -> None:
    config = confidence_config()
    assert set(config.weights) | {"restored"} == set(EVIDENCE)
    good = {"certain": 0.97, "kept": 0.9, "size": 0.05, "similar": 0.95, "agreement": 0.9, "visible": 1.0, "restored": 0.0}
    poor = {"certain": 0.6, "kept": 0.3, "size": 1.2, "similar": 0.8, "agreement": 0.4, "visible": 0.4, "restored": 0.7}
    assert (confidence(good, config) or 0) > 0.8
    assert (confidence(poor, config) or 1) < 0.4


def test_a_malformed_confidence_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("bias: much")
    with pytest.raises(InputError, match=r"c\.yaml"):
        confidence_config(tmp_path / "c.yaml")
