"""Prompting regions and boxes are exactly those of the published method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk
from medsam2_atlas.prompting import (
    BoxPrompt,
    OrganPrompt,
    PromptingConfig,
    Prompts,
    describe_prompts,
    enlarged,
    prompt_from_planes,
    prompts_from_labels,
    prompts_from_scores,
    read_prompts,
    region,
)
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps

TABLE = organ_table()
MIDDLE, THREE = (0.5,), (0.25, 0.5, 0.75)


def scores_of(values: np.ndarray, label: int = 6, visible: float = 1.0) -> ScoreMaps:
    geometry = Geometry(values.shape[::-1], (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    score = ScoreMap(np.rint(values * 255).astype(np.uint8), (0, 0, 0), visible)
    return ScoreMaps({label: score}, geometry, 1, Transform(()), Transform(()))


def block(low: int = 4, high: int = 14) -> np.ndarray:
    values = np.zeros((20, 30, 40))
    for z in range(low, high + 1):
        values[z, 5 : 10 + z // 2, 12:25] = 0.9
    return values


def test_the_published_thresholds_are_in_the_table() -> None:
    published = [0.6, 0.6, 0.4, 0.3, 0.2, 0.2, 0.6, 0.3, 0.3, 0.4, 0.1, 0.1, 0.3, 0.7, 0.1]
    assert [o.published_threshold for o in TABLE.organs] == published
    assert [o.index for o in TABLE.organs if not o.enlarge_z] == [8, 9, 11, 12]


def test_one_box_lies_in_the_middle_of_the_range_and_encloses_the_mask() -> None:
    found = prompts_from_scores(scores_of(block()), TABLE, [6], MIDDLE, "published")
    assert found.missing == {}
    assert found.prompts == (OrganPrompt(6, 4, 14, (BoxPrompt(9, (12, 5, 24, 13)),)),)


def test_rules_beyond_the_threshold_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published method has none: any voxel above the threshold gives a prompt, on either side of the patient."""
    outside, faint = scores_of(block(), visible=0.0), scores_of(block() * 0.04, label=11)
    right, left = np.zeros((20, 30, 40)), np.zeros((20, 30, 40))
    right[5:9, 5:9, 30:34], left[5:9, 5:9, 4:8] = 0.9, 0.9  # x increases to the left, so both lie on the other's side
    swapped = scores_of(right, 2)
    swapped = replace(swapped, maps=swapped.maps | scores_of(left, 3).maps)

    def prompted(scores: ScoreMaps, table: OrganTable = TABLE) -> list[int]:
        organs = list(scores.maps)
        return [p.label for p in prompts_from_scores(scores, table, organs, MIDDLE, "published").prompts]

    low = TABLE.model_copy(update={"organs": tuple(o.model_copy(update={"published_threshold": 0.01}) for o in TABLE.organs)})
    assert (prompted(outside), prompted(faint, low), len(prompted(swapped))) == ([], [], 1)
    off = PromptingConfig.model_validate({"min_visible": 0, "min_score": 0, "check_sides": False})
    monkeypatch.setattr(region, "prompting_config", lambda: off)
    assert (prompted(outside), prompted(faint, low), prompted(swapped)) == ([6], [11], [2, 3])
    assert prompted(scores_of(np.zeros((20, 30, 40)))) == []


def test_three_boxes_lie_at_the_quarters() -> None:
    prompt = prompts_from_scores(scores_of(block()), TABLE, [6], THREE, "published").prompts[0]
    assert [b.z for b in prompt.boxes] == [6, 9, 11]  # 4 + 10 · .25 = 6.5 is rounded down
    assert prompt.middle.z == 9


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([MIDDLE, THREE]))
def test_boxes_stay_in_any_range(low: int, length: int, fractions: tuple[float, ...]) -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    prompt = prompt_from_planes(1, low, low + length, lambda z: mask, fractions)
    assert all(low <= b.z <= low + length and b.box == (2, 1, 2, 1) for b in prompt.boxes)
    assert [b.z for b in prompt.boxes] == sorted({int(low + length * f) for f in fractions})


def test_the_box_of_an_empty_slice_comes_from_the_nearest_slice_with_a_note() -> None:
    values = block()
    values[8:11] = 0
    prompt = prompts_from_scores(scores_of(values), TABLE, [6], MIDDLE, "published").prompts[0]
    assert prompt.boxes[0].z == 7
    assert prompt.notes == ("slice 9 is empty: box taken from slice 7",)


def test_the_score_must_exceed_the_threshold() -> None:
    values = np.zeros((10, 10, 10))
    values[3:6, 3:6, 3:6] = 0.6
    found = prompts_from_scores(scores_of(values, label=1), TABLE, [1], MIDDLE, "published")
    assert found.prompts == ()
    assert "0.60" in found.missing[1]
    adaptive = prompts_from_scores(scores_of(values, label=1), TABLE, [1], MIDDLE, "adaptive")
    assert adaptive.prompts[0].z_min == 3


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (scores_of(block(), label=1), "no reference"),
        (scores_of(block(), visible=0.0), "outside the scan"),
        (scores_of(block() * 0.1), "threshold"),
        (scores_of(np.zeros((20, 30, 40))), "stays at or below"),
    ],
)
def test_a_missing_organ_gets_no_prompt_but_a_reason(scores: ScoreMaps, words: str) -> None:
    found = prompts_from_scores(scores, TABLE, [6], THREE, "published")
    assert found.prompts == ()
    assert words in found.missing[6]


def test_a_partially_imaged_organ_gets_a_note() -> None:
    prompt = prompts_from_scores(scores_of(block(), visible=0.5), TABLE, [6], MIDDLE, "published").prompts[0]
    assert prompt.notes == ("about 50% of it lies outside the scan",)


def test_label_maps_give_prompts() -> None:
    labels = np.where(block() > 0, 6, 0)
    found = prompts_from_labels(labels, [6, 7], THREE, "the first pass found nothing")
    assert found.prompts[0].boxes[1] == BoxPrompt(9, (12, 5, 24, 13))
    assert found.missing == {7: "the first pass found nothing"}


def test_strategy_d_enlarges_area_by_a_tenth_and_range_by_a_fifth() -> None:
    prompt = OrganPrompt(6, 10, 29, (BoxPrompt(20, (10, 10, 29, 49)),))
    grown = enlarged(Prompts((prompt,)), TABLE, (60, 100, 100)).prompts[0]
    assert (grown.z_min, grown.z_max) == (8, 31)
    x0, y0, x1, y1 = grown.boxes[0].box
    assert (x1 - x0 + 1) * (y1 - y0 + 1) == pytest.approx(1.1 * 20 * 40)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((19.5, 29.5))


def test_strategy_d_keeps_the_range_of_vessels_and_adrenal_glands_and_stays_in_the_volume() -> None:
    aorta = OrganPrompt(8, 10, 29, (BoxPrompt(20, (0, 0, 29, 49)),))
    liver = OrganPrompt(6, 0, 29, (BoxPrompt(20, (0, 0, 29, 49)),))
    grown = enlarged(Prompts((aorta, liver)), TABLE, (30, 50, 30)).prompts
    assert (grown[0].z_min, grown[0].z_max) == (10, 29)
    assert (grown[1].z_min, grown[1].z_max) == (0, 29)
    assert grown[1].boxes[0].box == (0, 0, 29, 49)


def test_reports_give_world_and_file_coordinates_and_can_be_propagated(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((6, 8, 10), np.int16))
    image.SetSpacing((1.5, 2.0, 3.0))
    volume: Volume = from_sitk(sitk.DICOMOrient(image, "RAS"))
    prompt = OrganPrompt(6, 1, 4, (BoxPrompt(2, (3, 1, 6, 5)),))
    entry = describe_prompts([prompt], volume)[0]
    assert entry["boxes"][0]["world"] == [[4.5, 2.0, 6.0], [9.0, 10.0, 6.0]]
    assert entry["boxes"][0]["file_voxels"] == [[6, 6, 2], [3, 2, 2]]
    assert entry["z_file"] == {"axis": "z", "range": [1, 4]}
    assert entry["z_world"] == [3.0, 12.0]
    (tmp_path / "p.json").write_text(json.dumps({"prompts": [entry]}))
    assert read_prompts(tmp_path / "p.json", volume.geometry) == [prompt]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "does not contain prompts"),
        ('[{"label": 6}]', "does not contain prompts"),
        ("[" * 100_000, "does not contain prompts"),
        ('[{"label": 300, "z_min": 0, "z_max": 3, "boxes": [{"z": 2, "box": [0, 0, 3, 3]}]}]', "less than or equal to 255"),
        ('[{"label": 0, "z_min": 0, "z_max": 3, "boxes": [{"z": 2, "box": [0, 0, 3, 3]}]}]', "greater than or equal to 1"),
        ('[{"label": 6, "z_min": 0, "z_max": 3, "boxes": [{"z": 2, "box": [0, 0, NaN, 3]}]}]', "finite"),
        ('[{"label": 6, "z_min": 0, "z_max": 9, "boxes": [{"z": 2, "box": [0, 0, 3, 3]}]}]', "outside the volume"),
        ('[{"label": 6, "z_min": 0, "z_max": 3, "boxes": [{"z": 5, "box": [0, 0, 3, 3]}]}]', "boxes on slices"),
        ('[{"label": 6, "z_min": 0, "z_max": 3, "boxes": [{"z": 2, "box": [9, 0, 3, 3]}]}]', "not a box"),
        ('[{"label": 6, "z_min": 0, "z_max": 3, "boxes": []}]', "boxes must lie"),
    ],
)
def test_wrong_prompts_are_refused(content: str, words: str, tmp_path: Path, tiny: Volume) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read_prompts(tmp_path / "p.json", tiny.geometry)


def test_planes_of_reduced_scores_line_up_with_the_image() -> None:
    values = np.zeros((3, 10, 10))
    values[1, 4, 6] = 1
    geometry = Geometry((40, 40, 3), (0.75, 0.75, 3.0), (0.0, 0.0, 0.0))
    maps = {6: ScoreMap((values * 255).astype(np.uint8), (0, 0, 0), 1.0)}
    scores = ScoreMaps(maps, geometry, 4, Transform(()), Transform(()))
    rows, columns = np.nonzero(scores.plane(6, 1) > 0.5)
    assert (rows.mean(), columns.mean()) == (17.5, 25.5)
    assert torch.from_numpy(scores.plane(6, 0)).sum() == 0


def test_thresholds_of_the_atlas_are_used_if_it_has_some() -> None:
    values = block() * 0.6
    sharp = replace(scores_of(values), thresholds={6: 0.5})
    assert prompts_from_scores(sharp, TABLE, [6], MIDDLE, "atlas").prompts
    strict = replace(scores_of(values), thresholds={6: 0.95})  # is lowered below the map's maximum
    assert prompts_from_scores(strict, TABLE, [6], MIDDLE, "atlas").prompts
    unknown = prompts_from_scores(scores_of(values), TABLE, [6], MIDDLE, "atlas")
    assert unknown == prompts_from_scores(scores_of(values), TABLE, [6], MIDDLE, "adaptive")


def test_settings_determine_which_organs_are_prompted_and_how_much_prompts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = PromptingConfig(min_visible=0.6, box_area_factor=4.0, range_growth=1.0)
    monkeypatch.setattr(region, "prompting_config", lambda: changed)
    missing = prompts_from_scores(scores_of(block(), visible=0.5), TABLE, [6], MIDDLE, "published").missing
    assert missing == {6: "it lies outside the scan"}
    prompt = OrganPrompt(6, 10, 13, (BoxPrompt(11, (10.0, 20.0, 13.0, 29.0)),))
    grown = enlarged(Prompts((prompt,)), TABLE, (40, 60, 60)).prompts[0]
    assert (grown.z_min, grown.z_max) == (8, 15)
    assert grown.boxes[0].box == (8.0, 15.0, 15.0, 34.0)  # twice as wide and high
