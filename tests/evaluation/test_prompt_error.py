"""Errors of prompts, measured on organs at known positions."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.evaluation import prompt_errors
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts, prompting_config, prompts_from_labels

GRID = Geometry((40, 30, 20), (2.0, 3.0, 5.0), (0.0, 0.0, 0.0))


def truth() -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[4:13, 10:16, 8:20] = 6
    array[15:20, 2:5, 2:5] = 1
    return Volume(array, GRID, GRID)


def test_true_prompts_have_no_error() -> None:
    labels = truth()
    errors = prompt_errors(prompts_from_labels(labels.array, [1, 6], prompting_config().three_boxes, ""), labels, range(1, 16))
    assert set(errors) == {1, 6}
    for error in errors.values():
        assert error is not None
        assert (error.centre, error.z_min, error.z_max) == (0, 0, 0)
        assert error.iou == (1.0, 1.0, 1.0)
    assert [errors[k].cut for k in (1, 6)] == [True, False]  # type: ignore[union-attr]


def test_errors_are_in_millimetres_and_separate_for_both_ends() -> None:
    # The box is one voxel to the left and half as wide; the range is one voxel lower at each end.
    moved = OrganPrompt(6, 3, 11, (BoxPrompt(7, (9.0, 10.0, 14.0, 15.0)),))
    error = prompt_errors(Prompts((moved,)), truth(), [1, 6])[6]
    assert error is not None
    assert (error.z_min, error.z_max) == (-5.0, -5.0)
    assert error.centre == pytest.approx(np.hypot(2.0 * (13.5 - 11.5), 5.0))
    assert error.iou == (pytest.approx(6 / 12),)
    assert error.usable


def test_a_prompt_beside_the_organ_is_not_usable_and_a_missing_one_is_none() -> None:
    beside = OrganPrompt(6, 14, 19, (BoxPrompt(16, (8.0, 10.0, 19.0, 15.0)),))
    errors = prompt_errors(Prompts((beside,), {1: "none"}), truth(), [1, 6])
    assert errors[1] is None
    assert errors[6] is not None and not errors[6].usable


def test_a_stray_voxel_of_the_ground_truth_is_ignored() -> None:
    stray = truth()
    stray.array[18, 25, 35] = 6
    prompts = prompts_from_labels(truth().array, [1, 6], prompting_config().three_boxes, "")
    assert prompt_errors(prompts, stray, [1, 6]) == prompt_errors(prompts, truth(), [1, 6])
