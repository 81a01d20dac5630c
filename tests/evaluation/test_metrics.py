"""Dice, surface distances and volumes per organ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import (
    DISAGREEMENT_LABELS,
    EvaluationConfig,
    compare_labels,
    compare_segmentations,
    comparison_report,
    metrics,
)
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.segmenters.base import Report, Segmentation

GRID = Geometry((40, 36, 30), (1.0, 1.5, 2.0), (0.0, 0.0, 0.0))


def volume(*blocks: tuple[int, tuple[slice, slice, slice]]) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    for k, box in blocks:
        array[box] = k
    return Volume(array, GRID, GRID, "labels")


BLOCK = (slice(5, 15), slice(6, 18), slice(8, 28))
LATER = (slice(5, 15), slice(6, 18), slice(12, 32))
"""`BLOCK`, shifted by 4 mm along x."""


def test_equal_masks_score_perfectly_and_shifted_ones_by_the_distance_of_the_shift() -> None:
    same = compare_labels(volume((6, BLOCK)), volume((6, BLOCK)), [6])[6]
    assert (same.dice, same.nsd, same.hd95_mm, same.volume_difference_ml) == (1.0, 1.0, 0.0, 0.0)
    moved = compare_labels(volume((6, BLOCK)), volume((6, LATER)), [6])[6]
    assert moved.dice == pytest.approx(0.8)
    assert moved.hd95_mm == pytest.approx(4.0)
    assert 0.3 < moved.nsd < 0.9
    near = compare_labels(volume((6, BLOCK)), volume((6, (BLOCK[0], BLOCK[1], slice(9, 29)))), [6])[6]
    assert near.nsd == 1.0  # 1 mm is within the tolerance of 2 mm


def test_spacing_counts_along_its_axis() -> None:
    up = (slice(8, 18), BLOCK[1], BLOCK[2])
    assert compare_labels(volume((6, BLOCK)), volume((6, up)), [6])[6].hd95_mm == pytest.approx(6.0)


def test_organs_are_scored_separately_and_a_missing_one_scores_zero() -> None:
    a = volume((6, BLOCK), (3, (slice(20, 25), slice(5, 9), slice(5, 9))))
    b = volume((6, BLOCK), (9, (slice(20, 25), slice(5, 9), slice(5, 9))))
    scores = compare_labels(a, b, range(1, 16))
    assert set(scores) == {3, 6, 9}
    assert scores[6].dice == 1
    assert (scores[3].dice, scores[3].nsd, scores[3].hd95_mm) == (0, 0, None)
    assert scores[3].volumes_ml == (pytest.approx(5 * 4 * 4 * 3 / 1000), 0)
    assert scores[9].volume_difference_ml < 0


def test_an_organ_cut_by_the_border_has_a_surface_there() -> None:
    whole = (slice(0, 30), slice(0, 36), slice(0, 40))
    assert compare_labels(volume((6, whole)), volume((6, whole)), [6])[6].nsd == 1


def test_other_grids_are_refused() -> None:
    shifted = replace(GRID, origin=(1.0, 0.0, 0.0))
    other = Volume(np.zeros(GRID.shape, np.uint8), shifted, shifted, "other.nii.gz")
    with pytest.raises(InputError, match=r"other\.nii\.gz"):
        compare_labels(volume((6, BLOCK)), other, [6])


def test_the_map_of_differences_distinguishes_three_kinds() -> None:
    first, second = volume((6, BLOCK)), volume((6, LATER), (3, (slice(5, 15), slice(6, 8), slice(8, 10))))
    found = compare_segmentations(first, second)
    names = {v: k for k, v in DISAGREEMENT_LABELS.items()}
    assert names[int(found.labels.array[10, 10, 9])] == "only_first"
    assert names[int(found.labels.array[10, 10, 30])] == "only_second"
    assert names[int(found.labels.array[10, 7, 9])] == "different_organs"
    assert found.labels.array[10, 10, 20] == 0
    assert ((found.labels.array > 0) == (first.array != second.array)).all()


def test_the_report_contains_cost_agreement_and_dice_to_the_final_label() -> None:
    first, second = volume((6, BLOCK)), volume((6, LATER))
    energy = {"watt_hours": 0.5, "how": "estimated", "seconds": 2.0}
    models = {
        "medsam2_atlas": Segmentation(first, Report(seconds={"total": 30.0}, energy=energy, mark="demo")),
        "unet_3d": Segmentation(second, Report(seconds={"total": 3.0}, from_cache=True)),
    }
    report = comparison_report(compare_segmentations(first, second), models, first)
    assert report["mean_dice"] == report["organs"]["liver"]["dice"] == pytest.approx(0.8)
    assert report["cost"]["medsam2_atlas"]["watt_hours"] == 0.5
    assert report["cost"]["unet_3d"] == {
        "seconds": 3.0,
        "watt_hours": None,
        "energy_how": "not measured",
        "device": None,
        "from_cache": True,
    }
    assert report["final"]["medsam2_atlas"]["mean_dice"] == 1
    assert report["final"]["unet_3d"]["organs"] == {"liver": pytest.approx(0.8)}
    assert "final" not in comparison_report(compare_segmentations(first, second), models)


def test_a_setting_changes_the_tolerance_of_the_nsd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "evaluation_config", lambda: EvaluationConfig(nsd_tolerance_mm=4.0))
    assert compare_labels(volume((6, BLOCK)), volume((6, LATER)), [6])[6].nsd == 1.0
