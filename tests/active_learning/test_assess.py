"""Measures of how informative a case is."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from medsam2_atlas.active_learning import ActiveLearningConfig, assess, disagreement, uncertainty
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts, prompting_config, prompts_from_scores
from medsam2_atlas.registration import RegistrationCache, Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps, score_maps
from medsam2_atlas.segmenters.fusion import fuse_scores


def scores_of(values: np.ndarray, visible: float = 1.0) -> ScoreMaps:
    grid = Geometry((8, 8, 8), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    return ScoreMaps({6: ScoreMap(values.astype(np.uint8), (0, 0, 0), visible)}, grid, 1, Transform(), Transform())


SHARP = np.zeros((8, 8, 8))
SHARP[2:6, 2:6, 2:6] = 255
PROMPT = Prompts((OrganPrompt(6, 2, 5, (BoxPrompt(3, (2, 2, 5, 5)),)),))


def test_uncertainty_is_low_for_certain_maps_and_prompts_and_high_for_vague_ones() -> None:
    sharp, vague = scores_of(SHARP), scores_of(SHARP / 3)
    assert uncertainty(sharp, PROMPT)[6] < 0.01
    assert uncertainty(sharp, Prompts((), {6: "none"}))[6] == pytest.approx(0.5, abs=0.01)
    assert uncertainty(vague, PROMPT)[6] > 0.6
    noted = Prompts((OrganPrompt(6, 2, 5, PROMPT.prompts[0].boxes, ("slice 3 is empty",)),))
    assert uncertainty(sharp, noted)[6] > uncertainty(sharp, PROMPT)[6]


def test_organs_outside_the_scan_do_not_count() -> None:
    assert uncertainty(scores_of(SHARP / 3, visible=0.01), PROMPT) == {}


def test_settings_weigh_map_and_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    vague, noted = scores_of(SHARP / 3), Prompts((OrganPrompt(6, 2, 5, PROMPT.prompts[0].boxes, ("slice 3 is empty",)),))
    both, module = uncertainty(vague, noted)[6], importlib.import_module("medsam2_atlas.active_learning.assess")

    def changed(**settings: float) -> float:
        monkeypatch.setattr(module, "active_learning_config", lambda: ActiveLearningConfig(**settings))
        return uncertainty(vague, noted)[6]

    entropy, doubt = changed(entropy_weight=1.0), changed(entropy_weight=0.0)
    assert both == pytest.approx((entropy + doubt) / 2)
    assert doubt - changed(entropy_weight=0.0, fallback_doubt=0.1) == pytest.approx(0.15)


def test_disagreement_counts_organs_that_only_one_label_map_contains() -> None:
    first, second = np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int)
    first[0], second[0] = 6, 6
    second[0, :2] = 0
    first[2] = 3
    second[3] = 8
    found = disagreement(first, second)
    assert found == {6: pytest.approx(1 / 3), 3: 1.0, 8: 1.0}
    assert disagreement(first, second, [6, 8]) == {6: pytest.approx(1 / 3), 8: 1.0}  # a model that does not segment organ 3
    assert disagreement(first, second, []) == {}


def test_a_case_unlike_the_references_has_more_novelty_than_a_reference(
    atlas: Atlas, target: Volume, registrations: RegistrationCache
) -> None:
    organs = organ_table().indices
    scores = score_maps(target, atlas, cache=registrations)
    prompts = prompts_from_scores(scores, organ_table(), organs, prompting_config().three_boxes)
    labels = fuse_scores(scores)
    found = assess(target, atlas, scores, prompts, labels, np.roll(labels, 5, axis=2))
    assert 0 < found.values["uncertainty"] < 1
    assert 0.2 < found.values["disagreement"] < 1
    assert 0 < found.values["novelty"] < 0.5
    assert "of 3 references" in found.why["novelty"]
    strange = target.with_array(np.where(target.array > -300, 400 - target.array, target.array))
    other = assess(strange, atlas, scores, prompts)
    assert other.values["novelty"] > found.values["novelty"] + 0.1
    assert "disagreement" not in other.values
