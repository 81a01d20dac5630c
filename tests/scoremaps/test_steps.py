"""The steps of the list run in order, and each step can be disabled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Volume, read_volume
from medsam2_atlas.registration import Affine, Transform
from medsam2_atlas.scoremaps import (
    EVIDENCE,
    STEPS,
    Alignment,
    FusionConfig,
    ScoreMaps,
    Target,
    Thresholds,
    fused_scores,
    score_maps,
    scores,
    steps,
    with_thresholds,
)
from medsam2_atlas.scoremaps.warping import map_grid

DEFAULT = FusionConfig.model_validate({})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two patients of blocks, and a third one with a smaller liver."""
    folder = tmp_path_factory.mktemp("blocks")
    z, y, x = PATIENT[6]
    labelled(folder, "a", PATIENT)
    labelled(folder, "b", PATIENT | {6: (z, y, slice(x.start, x.stop - 1))})
    labelled(folder / "target", "c", PATIENT | {6: (z, y, slice(x.start, x.stop - 2))})
    return folder


@pytest.fixture(scope="module")
def blocks(folder: Path) -> Atlas:
    atlas = build_atlas(find_references(folder), BuildOptions(registration=QUICK))
    return with_thresholds(atlas, Thresholds({6: 0.35}, {6: 0.9}, "local", True, 2))


@pytest.fixture(scope="module")
def patient(folder: Path) -> Volume:
    return read_volume(folder / "target" / "images" / "c.nii.gz")


@pytest.fixture(scope="module")
def alignment(patient: Volume, blocks: Atlas) -> Alignment:
    """The patient's alignment, from the step before the vote."""
    found: Alignment = STEPS[0](Target(patient, blocks, QUICK), DEFAULT, lambda *_: None)
    return found


@pytest.fixture(scope="module")
def complete(alignment: Alignment) -> ScoreMaps:
    return fused_scores(alignment, DEFAULT)


def without(*names: str, **sections: Any) -> FusionConfig:
    return FusionConfig.model_validate({name: {"enabled": False} for name in names} | sections)


def differ(first: ScoreMaps, second: ScoreMaps) -> bool:
    shape = first.reduced_shape
    return any((first.maps[k].uncropped(shape) != second.maps[k].uncropped(shape)).any() for k in first.maps)


def test_the_list_has_all_steps_in_order_and_each_has_its_section() -> None:
    assert [step.name for step in STEPS] == ["align", "vote", "warp", "restore", "bend", "correct", "evidence", "thresholds"]
    for step in STEPS:
        assert getattr(DEFAULT, step.name).enabled


def test_all_steps_of_the_list_run_in_its_order(patient: Volume, blocks: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def spied(name: str, run: Any) -> Any:
        def spy(value: Any, config: FusionConfig, progress: Any) -> Any:
            ran.append((name, type(value).__name__))
            return run(value, config, progress)

        return spy

    spies = tuple(replace(step, run=spied(step.name, step.run)) for step in STEPS)
    monkeypatch.setattr(scores, "STEPS", spies)
    score_maps(patient, blocks, config=QUICK)
    values = ["Target", "Alignment", "Votes", *["Warped"] * 5]
    assert ran == list(zip([step.name for step in STEPS], values, strict=True))
    ran.clear()
    score_maps(patient, blocks, config=QUICK, fusion=without("vote", "bend", "evidence"))
    assert [name for name, _ in ran] == ["align", "warp", "restore", "correct", "thresholds"]


def test_a_replaced_step_align_gives_its_own_transform(patient: Volume, blocks: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    shift = Transform((Affine(torch.eye(3), torch.tensor([500.0, 0.0, 0.0])),))

    def far_off(target: Target, config: FusionConfig, progress: Any) -> Alignment:
        return Alignment(target.image, blocks.template, blocks, shift, shift.inverse())

    monkeypatch.setattr(scores, "STEPS", (replace(STEPS[0], run=far_off), *STEPS[1:]))
    found = score_maps(patient, blocks, config=QUICK)
    assert found.transform is shift
    assert max(score.visible for score in found.maps.values()) == 0


def test_without_alignment_the_target_is_not_moved(patient: Volume, blocks: Atlas) -> None:
    found = score_maps(patient, blocks, config=QUICK, fusion=without("align"))
    assert found.transform.maps == found.inverse.maps == ()


def test_without_a_vote_the_references_have_equal_weights(alignment: Alignment, complete: ScoreMaps) -> None:
    mean = fused_scores(alignment, DEFAULT.with_method("mean").as_registered())
    off = fused_scores(alignment, without("vote", "bend", "correct"))
    voted = fused_scores(alignment, DEFAULT.as_registered())
    assert not differ(off, mean)
    assert differ(off, voted)


def test_without_warping_only_a_target_on_the_grid_of_the_maps_is_accepted(alignment: Alignment) -> None:
    with pytest.raises(InputError, match="does not lie on the grid"):
        fused_scores(alignment, without("warp"))
    grid = map_grid(alignment.atlas.template)
    on_grid = replace(alignment, target=Volume(np.full(grid.shape, 40, np.float32), grid, grid))
    found = fused_scores(on_grid, without("vote", "warp", "bend", "correct"))
    for k, organ in alignment.atlas.maps.items():
        assert (found.maps[k].values == organ.values).all()


@pytest.mark.parametrize("name", ["bend", "correct"])
def test_without_the_target_s_intensities_maps_stay_as_registered(name: str, alignment: Alignment, complete: ScoreMaps) -> None:
    assert differ(fused_scores(alignment, without(name)), complete)
    neither, registered = fused_scores(alignment, without("bend", "correct")), fused_scores(alignment, DEFAULT.as_registered())
    assert not differ(neither, registered)


def test_without_evidence_maps_have_none(alignment: Alignment, complete: ScoreMaps) -> None:
    found = fused_scores(alignment, without("evidence"))
    assert not differ(found, complete)
    assert all(score.evidence == {} for score in found.maps.values())
    assert all(set(score.evidence) == set(EVIDENCE) for score in complete.maps.values())


def test_without_the_step_thresholds_those_of_the_atlas_are_not_used(alignment: Alignment, complete: ScoreMaps) -> None:
    assert complete.thresholds == {6: 0.35}
    assert fused_scores(alignment, without("thresholds")).thresholds == {}


def test_requesting_some_organs_does_not_change_their_maps(alignment: Alignment, complete: ScoreMaps) -> None:
    found = fused_scores(alignment, DEFAULT, [6, 99])
    assert list(found.maps) == [6]
    assert (found.maps[6].values == complete.maps[6].values).all()


def test_leave_one_out_runs_the_intensity_steps_of_the_list() -> None:
    assert STEPS[3:6] == (steps.RESTORE, steps.BEND, steps.CORRECT)
