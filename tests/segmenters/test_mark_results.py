"""Several marked organs of a CT: their results are kept and fused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights, load_weights
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks, marked_organ
from medsam2_atlas.segmenters import marked
from medsam2_atlas.segmenters.mark_results import FoundOrgan, MarkedLabels, MarkResult, MarkResults
from medsam2_atlas.segmenters.marked import segment_marked
from medsam2_atlas.segmenters.marked_config import MarksConfig

LIVER, KIDNEY, SPLEEN = 6, 2, 1


def found(label: int, logits: Sequence[float], certain: Sequence[tuple[int, int, int]] = ()) -> tuple[FoundOrgan, np.ndarray]:
    """Returns an organ on slice 1 of three slices of 1 x 4 pixels, whose mask contains the pixels with logits above 0."""
    values = torch.tensor(logits, dtype=torch.float32).view(1, 1, 4)
    mask = np.zeros((3, 1, 4), bool)
    mask[1] = values[0].numpy() > 0
    for place in certain:
        mask[place] = True
    organ = MarkedOrgan(label, 1, 1, (SliceMarks(1, (0, 0, 1, 1)),))
    return FoundOrgan(organ, OrganLogits(label, 1, values), np.array(certain, int).reshape(-1, 3), ()), mask


def fused(*organs: tuple[FoundOrgan, np.ndarray]) -> list[int]:
    labels = MarkedLabels((3, 1, 4))
    for organ, mask in organs:
        labels.add(organ, mask)
    assert not labels.fused()[[0, 2]].any()
    row: list[int] = labels.fused()[1, 0].tolist()
    return row


def test_a_voxel_of_several_masks_gets_the_organ_with_the_highest_logit_in_any_order() -> None:
    liver, kidney, spleen = found(LIVER, [5, 5, 1, -1]), found(KIDNEY, [-1, 3, 3, 3]), found(SPLEEN, [-1, 4, 4, -1])
    expected = [LIVER, LIVER, SPLEEN, KIDNEY]
    assert fused(liver, kidney, spleen) == expected
    assert fused(spleen, kidney, liver) == expected
    assert fused(kidney, spleen, liver) == expected


def test_a_person_s_points_decide_against_higher_logits() -> None:
    liver, kidney = found(LIVER, [9, 9, 9, 9]), found(KIDNEY, [-1, -1, 1, 1], [(1, 0, 1)])
    assert fused(liver, kidney) == [LIVER, KIDNEY, LIVER, LIVER]
    assert fused(kidney, liver) == [LIVER, KIDNEY, LIVER, LIVER]


def test_the_last_results_are_kept_and_others_are_computed_again() -> None:
    results, made = MarkResults(), list[int]()

    def get(key: int) -> MarkResult:
        def make() -> MarkResult:
            made.append(key)
            return MarkResult(OrganLogits(key, 0, torch.zeros(1, 8, 8)), {})

        return results.get(key, make)

    assert get(0) is get(0)
    for key in range(50):
        get(key)
    assert made == list(range(50))
    assert len(results) == 16
    assert results.bytes == 16 * 8 * 8 * 4
    get(49)
    get(0)
    assert made == [*range(50), 0]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(Path(resource("weights/medsam2_demo.pt")))


def boxed(target: Volume, truth: Volume, label: int, reach: float, **points: Any) -> MarkedOrgan:
    mask = truth.array == label
    slices = np.flatnonzero(mask.any((1, 2)))
    z = int(slices[len(slices) // 2])
    rows, columns = np.nonzero(mask[z])
    corners = np.array([[columns.min(), rows.min(), z], [columns.max(), rows.max(), z]], float)
    return marked_organ(target, label, boxes=[target.to_file_index(corners)], reach=reach, **points)


def test_several_organs_in_one_call_give_what_each_gives_alone_outside_of_overlaps(
    target: Volume, target_truth: Volume, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, results, runs = MedSAM2Volume(weights, target.array), MarkResults(), list[int]()
    propagate = MedSAM2Volume.segment_marked

    def counted(self: MedSAM2Volume, organ: MarkedOrgan, **options: Any) -> OrganLogits:
        runs.append(organ.label)
        return propagate(self, organ, **options)

    monkeypatch.setattr(MedSAM2Volume, "segment_marked", counted)
    organs = [boxed(target, target_truth, label, 4) for label in (LIVER, KIDNEY)]
    shares: list[float] = []

    def progress(stage: str, share: float, organ: int | None = None) -> None:
        shares.append(share)

    both = segment_marked(target, prepared, weights, organs, progress, results)
    assert runs == [LIVER, KIDNEY]
    assert max(shares) == 1
    alone = [segment_marked(target, prepared, weights, organ, results=results) for organ in organs]
    assert runs == [LIVER, KIDNEY], "the same marks are not propagated again"
    fresh = [segment_marked(target, prepared, weights, organ) for organ in organs]
    masks = [one.labels.array > 0 for one in fresh]
    for mask, kept, organ in zip(masks, alone, organs, strict=True):
        assert np.array_equal(kept.labels.array, mask * np.uint8(organ.label))
        here = mask & (sum(masks) == 1)
        assert (both.labels.array[here] == organ.label).all()
    assert not both.labels.array[~(masks[0] | masks[1])].any()
    assert [mark["organ"] for mark in both.report.marks] == ["liver", "right_kidney"]
    assert both.report.organ_numbers == [KIDNEY, LIVER]
    assert both.report.range == [min(o.z_min for o in organs), max(o.z_max for o in organs)]


def test_other_marks_or_other_settings_are_propagated_again(
    target: Volume, target_truth: Volume, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, results = MedSAM2Volume(weights, target.array), MarkResults()
    organ = boxed(target, target_truth, KIDNEY, 1)
    segment_marked(target, prepared, weights, organ, results=results)
    inside = target.to_file_index(np.array([[*np.argwhere(target_truth.array == KIDNEY)[0][::-1]]], float))
    with_point = boxed(target, target_truth, KIDNEY, 1, inside=inside)
    segment_marked(target, prepared, weights, with_point, results=results)
    assert len(results) == 2
    monkeypatch.setattr(marked, "marks_config", lambda: MarksConfig(min_certainty=0.1))
    segment_marked(target, prepared, weights, organ, results=results)
    assert len(results) == 3
