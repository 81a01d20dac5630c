"""Segmentation of an organ from a person's marks; more marks improve it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mask_dice import mask_dice
from medsam2_atlas.base.jobs import CancelledError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.base.stages import observing
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, load_weights
from medsam2_atlas.prompting import marked_organ
from medsam2_atlas.segmenters.base import Options, Segmentation
from medsam2_atlas.segmenters.marked import Marked, segment_marked
from medsam2_atlas.segmenters.resources import LoadedResources
from stage_record import NETWORK, StageRecord

LIVER, RIGHT_KIDNEY, DUODENUM = 6, 2, 13


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(Path(resource("weights/medsam2_demo.pt")))


@pytest.fixture(scope="module")
def prepared(target: Volume, weights: Weights) -> MedSAM2Volume:
    return MedSAM2Volume(weights, target.array)


def middle(mask: np.ndarray) -> int:
    slices = np.flatnonzero(mask.any((1, 2)))
    return int(slices[len(slices) // 2])


def in_file(target: Volume, points: Sequence[Sequence[float]]) -> list[list[int]]:
    return [[int(v) for v in row] for row in target.to_file_index(np.array(points, float))]


def box_on(target: Volume, mask: np.ndarray, z: int) -> list[list[int]]:
    rows, columns = np.nonzero(mask[z])
    return in_file(target, [[columns.min(), rows.min(), z], [columns.max(), rows.max(), z]])


def deepest(target: Volume, mask: np.ndarray, z: int) -> list[list[int]]:
    y, x = np.unravel_index(ndimage.distance_transform_edt(mask[z]).argmax(), mask[z].shape)
    return in_file(target, [[x, y, z]])


@pytest.fixture(scope="module")
def segmented(target: Volume, prepared: MedSAM2Volume, weights: Weights) -> Any:
    known: dict[str, Segmentation] = {}

    def run(label: int, **marks: Any) -> Segmentation:
        key = repr((label, {kind: mark for kind, mark in marks.items() if mark != []}))
        if key not in known:  # several tests begin with the same boxes
            known[key] = segment_marked(target, prepared, weights, marked_organ(target, label, **marks))
        return known[key]

    return run


def test_one_box_on_one_slice_finds_organs_and_their_ends(target: Volume, target_truth: Volume, segmented: Any) -> None:
    reached = {}
    for k in organ_table().indices:
        mask = target_truth.array == k
        if mask.sum() >= 200:
            found = segmented(k, boxes=[box_on(target, mask, middle(mask))])
            reached[k] = mask_dice(found.labels.array == k, mask)
            assert set(np.unique(found.labels.array)) <= {0, k}
            assert found.report.mark
    assert np.mean(list(reached.values())) > 0.7, reached
    assert reached[LIVER] > 0.85


def test_a_click_finds_organs(target: Volume, target_truth: Volume, segmented: Any) -> None:
    reached = {}
    for k in (1, RIGHT_KIDNEY, 5, 10, 14):
        mask = target_truth.array == k
        found = segmented(k, inside=deepest(target, mask, middle(mask)))
        reached[k] = mask_dice(found.labels.array == k, mask)
    assert np.mean(list(reached.values())) > 0.75, reached
    assert reached[RIGHT_KIDNEY] > 0.9


def test_corrections_improve_the_mask(target: Volume, target_truth: Volume, segmented: Any) -> None:
    """Simulates a person: three times, the worst slice gets a click on its largest error."""
    before, after = [], []
    for k in (4, 7, 10, DUODENUM):  # the organs with the largest errors after one box
        mask = target_truth.array == k
        marks: dict[str, Any] = {"boxes": [box_on(target, mask, middle(mask))], "inside": [], "outside": []}
        found = segmented(k, **marks).labels.array == k
        before.append(mask_dice(found, mask))
        for _ in range(3):
            wrong = found ^ mask
            z = int(wrong.sum((1, 2)).argmax())
            kind = "inside" if (wrong & mask)[z].sum() >= (wrong & ~mask)[z].sum() else "outside"
            marks[kind] += deepest(target, wrong & (mask if kind == "inside" else ~mask), z)
            found = segmented(k, **marks).labels.array == k
        after.append(mask_dice(found, mask))
    assert np.mean(after) > np.mean(before) + 0.02, (before, after)


def test_points_overrule_the_network(target: Volume, target_truth: Volume, segmented: Any) -> None:
    """Points win even if they are wrong: here, one in the middle of the liver is off it, and one in a kidney is on it."""
    mask, kidney = target_truth.array == LIVER, target_truth.array == RIGHT_KIDNEY
    z = middle(kidney)
    box = box_on(target, mask, middle(mask))
    off, on = deepest(target, mask, z), deepest(target, kidney, z)
    found = segmented(LIVER, boxes=[box], outside=off, inside=on)
    labels = found.labels.restored()
    assert labels[off[0]] == 0
    assert labels[on[0]] == LIVER
    assert len(found.report.overruled) == 1


def test_reach_limits_the_propagation(target: Volume, target_truth: Volume, segmented: Any) -> None:
    mask = target_truth.array == LIVER
    z = middle(mask)
    found = segmented(LIVER, boxes=[box_on(target, mask, z)], reach=0)
    assert np.flatnonzero(found.labels.array.any((1, 2))).tolist() == [z]
    assert found.report.range == [z, z]


def test_slices_are_encoded_once_for_all_corrections(target: Volume, target_truth: Volume, weights: Weights) -> None:
    prepared = MedSAM2Volume(weights, target.array)
    mask = target_truth.array == LIVER
    z = middle(mask)
    seen: list[int] = []
    encode = weights.network.forward_image
    weights.network.forward_image = lambda images: (seen.append(len(images)), encode(images))[1]
    try:
        for points in ([], deepest(target, mask, z + 3)):
            organ = marked_organ(target, LIVER, boxes=[box_on(target, mask, z)], inside=points, reach=20)
            segment_marked(target, prepared, weights, organ)
    finally:
        weights.network.forward_image = encode
    assert sum(seen) <= organ.z_max - organ.z_min + 1


def test_encoding_and_propagation_are_a_stage(target: Volume, target_truth: Volume, weights: Weights) -> None:
    record = StageRecord()
    mask = target_truth.array == LIVER
    organ = marked_organ(target, LIVER, boxes=[box_on(target, mask, middle(mask))], reach=0)
    with observing(record):
        Marked("medsam2", LoadedResources(None, weights)).segment(target, Options(marks=organ))
    assert record.changes == [*NETWORK, *NETWORK]


def test_a_job_can_be_stopped(target: Volume, prepared: MedSAM2Volume, weights: Weights, target_truth: Volume) -> None:
    shares = []

    def progress(stage: str, share: float, organ: int | None = None) -> None:
        shares.append(share)
        if len(shares) == 5:
            raise CancelledError("medsam2", "was cancelled.")

    mask = target_truth.array == LIVER
    with pytest.raises(CancelledError):
        segment_marked(
            target, prepared, weights, marked_organ(target, LIVER, boxes=[box_on(target, mask, middle(mask))]), progress
        )
    assert len(shares) == 5
