"""Rules for empty masks, compared with MONAI's metrics and with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric

from made_results import record
from medsam2_atlas.evaluation import compare_labels, evaluation_config
from medsam2_atlas.experiment import EmptyRule, Metric, OrganResult, Record, Results, Variant
from medsam2_atlas.imaging.volume import Geometry, Volume

D = Variant(segmenter="D")
GRID = Geometry((12, 12, 10), (1.0, 1.5, 2.0), (0.0, 0.0, 0.0))
SPACING = (2.0, 1.5, 1.0)
DIAGONAL = 31.0

# One organ per combination: 1 in both, 2 only in the prediction, 3 only in the ground truth, 4 in neither, 5 in both or in one.
BLOCKS = {k: (slice(1, 6), slice(2 * k - 2, 2 * k), slice(2, 8)) for k in range(1, 6)}
TRUTHS = ({1, 3, 5}, {1, 3})
PREDICTIONS = ({1, 2, 5}, {1, 2, 5})


def label_map(organs: set[int], shift: int = 0) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    for k in organs:
        z, y, x = BLOCKS[k]
        array[z, y, slice(x.start + shift, x.stop + shift)] = k
    return Volume(array, GRID, GRID, "labels")


def scored(case: str, prediction: Volume, truth: Volume) -> Record:
    found = compare_labels(prediction, truth, range(1, 6))
    organs = [
        OrganResult(
            organ=k,
            truth_ml=score.volumes_ml[1],
            predicted_ml=score.volumes_ml[0],
            dice=score.dice,
            nsd=score.nsd,
            hd95_mm=score.hd95_mm,
            prompt=None,
        )
        for k, score in found.items()
    ]
    return record(case, D, organs, diagonal_mm=DIAGONAL)


def maps() -> list[tuple[Volume, Volume]]:
    """Returns prediction and ground truth of two cases; the second prediction is shifted by 2 voxels."""
    return [
        (label_map(predicted, shift), label_map(true))
        for predicted, true, shift in zip(PREDICTIONS, TRUTHS, (0, 2), strict=True)
    ]


def results(rule: EmptyRule) -> Results:
    records = tuple(scored(f"case_{n}", *pair) for n, pair in enumerate(maps()))
    return Results(records, (1, 2, 3, 4, 5), empty=rule)


def one_hot(volume: Volume) -> torch.Tensor:
    """Returns a mask per organ `[1, organ, z, y, x]`."""
    return torch.from_numpy(np.stack([volume.array == k for k in range(1, 6)])[None]).float()


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class")
def test_the_rule_monai_gives_the_means_of_the_metrics_of_monai() -> None:
    tolerance = evaluation_config().nsd_tolerance_mm
    metrics: dict[Metric, object] = {
        "dice": DiceMetric(include_background=True, reduction="none", ignore_empty=True),
        "nsd": SurfaceDiceMetric([tolerance] * 5, include_background=True, reduction="none"),
        "hd95_mm": HausdorffDistanceMetric(include_background=True, percentile=95, reduction="none"),
    }
    ours = results("monai")
    for metric, monai in metrics.items():
        options = {} if metric == "dice" else {"spacing": SPACING}
        values = np.concatenate([monai(one_hot(a), one_hot(b), **options).numpy() for a, b in maps()])  # type: ignore[operator]
        values[~np.isfinite(values)] = np.nan
        expected = {k + 1: np.nanmean(column) for k, column in enumerate(values.T) if np.isfinite(column).any()}
        assert ours.organ_means(D, metric) == pytest.approx(expected, abs=1e-5), metric
        by_case = {f"case_{n}": np.nanmean(row) for n, row in enumerate(values)}
        assert ours.case_means(D, metric) == pytest.approx(by_case, abs=1e-5), metric


def test_the_rule_penalise_counts_an_organ_with_one_empty_mask_as_zero_or_as_the_diagonal() -> None:
    ours = results("penalise")
    # Case 1 is shifted by 2 of 6 voxels along x: Dice 2·4/(6 + 6).
    assert ours.values(D, "dice", 1) == pytest.approx({"case_0": 1.0, "case_1": 2 / 3})
    assert ours.values(D, "dice", 2) == ours.values(D, "dice", 3) == {"case_0": 0.0, "case_1": 0.0}
    assert ours.values(D, "dice", 4) == {}
    assert ours.values(D, "dice", 5) == {"case_0": 1.0, "case_1": 0.0}
    assert ours.values(D, "hd95_mm", 1) == pytest.approx({"case_0": 0.0, "case_1": 2.0})
    assert ours.values(D, "hd95_mm", 2) == {"case_0": DIAGONAL, "case_1": DIAGONAL}
    assert ours.case_means(D, "dice") == pytest.approx({"case_0": 2 / 4, "case_1": 2 / 3 / 4})
    assert ours.organ_means(D, "dice") == pytest.approx({1: 5 / 6, 2: 0, 3: 0, 5: 1 / 2})
    assert ours.case_means(D, "hd95_mm") == pytest.approx({"case_0": 2 * DIAGONAL / 4, "case_1": (2 + 3 * DIAGONAL) / 4})


def test_volume_differences_count_under_both_rules() -> None:
    block_ml = 5 * 2 * 6 * 3 / 1000
    for rule in ("penalise", "monai"):
        means = results(rule).organ_means(D, "volume_difference_ml")
        assert means == pytest.approx({1: 0, 2: block_ml, 3: -block_ml, 5: block_ml / 2})


def test_records_of_a_variant_are_sorted_by_case_whatever_their_order() -> None:
    found = results("penalise")
    turned = Results(found.records[::-1], found.organs)
    assert list(turned.of(D)) == ["case_0", "case_1"]
    assert turned.of(Variant(segmenter="A")) == {}
