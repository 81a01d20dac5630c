"""The rules of prompts that the benchmark compares, and how it shares registrations and compares results."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from calibration import fitted
from kept_registrations import registered
from prompt_gains import differences, halves
from prompt_rows import Row, rows_of
from prompt_rules import PUBLISHED, Found, prompts_by, thickness
from registrations import METHODS, OFF, same_registration

from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import Affine, Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps, fusion_config

GRID = Geometry((40, 30, 20), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
TABLE = organ_table()


def found_in(**maps: np.ndarray) -> Found:
    """Returns the published prompts of score maps, all with the evidence of a moderately reliable map."""
    evidence = {"certain": 0.7, "kept": 0.7, "size": 0.2, "similar": 0.9, "agreement": 0.6, "visible": 1.0}
    scores = {int(k[1:]): ScoreMap(np.rint(v * 255).astype(np.uint8), (0, 0, 0), 1.0, evidence) for k, v in maps.items()}
    made = ScoreMaps(scores, GRID, 1, Transform(()), Transform(()))
    prompts = prompts_from_scores(made, TABLE, TABLE.indices, prompting_config().three_boxes, "adaptive")
    return Found(made, "adaptive", prompts)


def slab(width: int, x: int = 10) -> np.ndarray:
    """Returns a map of 0.9 that is `width` voxels thick, with a border of 0.3 around it."""
    values = np.zeros(GRID.shape)
    values[3:16, 4:26, x - 2 : x + width + 2] = 0.3
    values[4:15, 6:24, x : x + width] = 0.9
    return values


def test_only_thin_maps_get_a_lower_threshold() -> None:
    found = found_in(o11=slab(2), o6=slab(12, 22))
    assert thickness(found, 11) < 10 < thickness(found, 6)
    lower = {p.label: p for p in prompts_by("thin:10:0.5", found).prompts}
    before = {p.label: p for p in found.prompts.prompts}
    assert lower[6] == before[6]
    assert (before[11].z_min, before[11].z_max, lower[11].z_min, lower[11].z_max) == (4, 14, 3, 15)
    boxes = {p.label: p for p in prompts_by("thin-boxes:10:0.5", found).prompts}[11]
    assert (boxes.z_min, boxes.z_max) == (4, 14)
    assert boxes.middle.box == (8, 4, 13, 25)
    assert before[11].middle.box == (10, 6, 11, 23)


def test_boxes_move_to_the_most_certain_slices_near_their_places() -> None:
    values = slab(6)
    values[7][values[7] > 0.5] = 1.0
    found = found_in(o6=values)
    assert [box.z for box in prompts_by("certain:0.12", found).prompts[0].boxes] == [7, 9, 11]
    assert [box.z for box in found.prompts.prompts[0].boxes] == [6, 9, 11]


def test_slack_depends_on_confidence() -> None:
    found = found_in(o6=slab(10))
    (before,) = found.prompts.prompts
    assert before.confidence is not None
    for rule, share in (("slack:0.5", 0.5 * (1 - before.confidence)), ("slack-all:0.1", 0.1)):
        (after,) = prompts_by(rule, found).prompts
        assert after.middle.box[2] == pytest.approx(before.middle.box[2] + share * 10)
        assert after.middle.box[0] == pytest.approx(before.middle.box[0] - share * 10)


def test_an_aorta_right_of_the_vena_cava_is_less_certain() -> None:
    right, left = slab(4, 6), slab(4, 28)  # x increases to the left
    usual, swapped = found_in(o8=left, o9=right), found_in(o8=right, o9=left)
    assert prompts_by("vessels:0.5", usual) == usual.prompts
    before, after = (
        sorted(p.confidence or 0 for p in each.prompts) for each in (swapped.prompts, prompts_by("vessels:0.5", swapped))
    )
    assert after == [pytest.approx(0.5 * before[0]), before[1]]


def test_a_row_tells_whether_boxes_contain_the_organ() -> None:
    found = found_in(o6=slab(10))
    truth = np.zeros(GRID.shape, np.uint8)
    truth[4:15, 6:24, 9:21] = 6
    volume = Volume(truth, GRID, GRID)
    about = Row("a", "b-0", 0, "ours", PUBLISHED)
    (row,) = rows_of(about, {6: 0.9}, found.scores, found.prompts, volume)
    assert (row.label, row.organ, row.usable, row.contains) == ("ours", "liver", True, (False,) * 3)
    wider = prompts_by("slack-all:0.2", found)
    (row,) = rows_of(replace(about, rule="slack-all:0.2"), {6: 0.9}, found.scores, wider, volume)
    assert (row.label, row.contains) == ("ours slack-all:0.2", (True,) * 3)


def test_methods_share_registrations_and_a_kept_one_is_read_again(tmp_path: Path) -> None:
    groups = same_registration(["affine", "ours-unadapted", "ours", "frog", "without-restore", "both"])
    assert groups == [["affine"], ["ours-unadapted", "ours", "without-restore"], ["frog"], ["both"]]
    calls = []

    def make() -> Transform:
        calls.append(1)
        return Transform((Affine(torch.eye(3), torch.zeros(3)),))

    first, second = registered(make, tmp_path / "one"), registered(make, tmp_path / "one")
    assert len(calls) == 1
    assert (first.cpu_s, first.wall_s) == (second.cpu_s, second.wall_s)
    registered(make, None)
    assert len(calls) == 2


@pytest.mark.parametrize("name", OFF)
def test_each_part_that_can_be_switched_off_changes_the_settings(name: str) -> None:
    assert METHODS[f"without-{name}"][1] != fusion_config()
    assert METHODS["ours"][1] == fusion_config()


def test_gains_are_means_over_subjects_and_halves_share_none() -> None:
    def row(target: str, method: str, organ: str, dice: float) -> dict[str, Any]:
        return {"set": "s", "target": target, "copy": 0, "method": method, "organ": organ, "dice": dice}

    rows = [
        row("a-0", "ours", "liver", 0.5), row("a-0", "new", "liver", 0.6), row("a-1", "ours", "liver", 0.5),
        row("a-1", "new", "liver", 0.8), row("b-0", "ours", "liver", 0.5), row("b-0", "new", "liver", 0.4),
        row("c-0", "ours", "liver", 0.5),
    ]  # fmt: skip
    assert differences(rows, "ours", "new", lambda r: r["dice"]) == {"a": pytest.approx(0.2), "b": pytest.approx(-0.1)}
    assert halves(rows) == ({"a", "c"}, {"b"})


def test_a_calibration_finds_the_model_that_made_the_outcomes() -> None:
    generator = np.random.default_rng(5)
    features = generator.normal(size=(4000, 2))
    chance = 1 / (1 + np.exp(-(0.5 + 2 * features[:, 0] - features[:, 1])))
    bias, weights = fitted(features, generator.random(4000) < chance)
    assert bias == pytest.approx(0.5, abs=0.15)
    assert weights == pytest.approx([2, -1], abs=0.2)
