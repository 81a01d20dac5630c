"""A click on an error of a mask corrects it on several slices, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mask_dice import mask_dice
from medsam2_atlas.base.resource import resource
from medsam2_atlas.base.stages import observing
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import ChangeFilter, MedSAM2Volume, Weights, load_weights
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.marked import Marked
from medsam2_atlas.segmenters.refined import described_changes, refine_marked, settled
from medsam2_atlas.segmenters.resources import LoadedResources
from stage_record import NETWORK, StageRecord

SPLEEN = 1


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(Path(resource("weights/medsam2_demo.pt")))


@pytest.fixture(scope="module")
def prepared(target: Volume, weights: Weights) -> MedSAM2Volume:
    return MedSAM2Volume(weights, target.array)


@pytest.fixture(scope="module")
def spleen(target_truth: Volume) -> np.ndarray:
    return np.asarray(target_truth.array == SPLEEN)


@pytest.fixture(scope="module")
def leaking(target: Volume, spleen: np.ndarray) -> tuple[np.ndarray, SliceMarks]:
    """Returns the spleen with a leak of 15 mm over some slices, and a point in the middle of the leak."""
    z = int(np.median(np.flatnonzero(spleen.any((1, 2)))))
    y, x = max(np.argwhere(spleen[z]), key=lambda place: -place[1])  # the border towards the middle of the patient
    steps = np.array(target.geometry.spacing[::-1])
    distances = (np.indices(spleen.shape).T - (z, y, x)) * steps
    leak = (np.linalg.norm(distances, axis=-1) <= 15).T & ~spleen
    rows, columns = np.nonzero(leak[z])
    return spleen | leak, SliceMarks(z, outside=((float(np.median(columns)), float(np.median(rows))),))


def given(mask: np.ndarray, *marks: SliceMarks) -> MaskedOrgan:
    slices = [*np.flatnonzero(mask.any((1, 2))).tolist(), *(m.z for m in marks)]
    return MaskedOrgan(SPLEEN, mask, marks, min(slices), max(slices), "upload")


def test_one_point_removes_a_leak_of_several_slices(
    target: Volume, prepared: MedSAM2Volume, weights: Weights, spleen: np.ndarray, leaking: tuple[np.ndarray, SliceMarks]
) -> None:
    before, click = leaking
    found = refine_marked(target, prepared, weights, given(before, click))
    after = found.labels.array == SPLEEN
    leaked = int((before & ~spleen).sum())
    assert (after & ~spleen).sum() < 0.3 * leaked
    assert (spleen & ~after).sum() < 0.3 * leaked
    assert mask_dice(after, spleen) > mask_dice(before, spleen)
    about = found.report.refined
    assert about is not None
    assert (about["mask"], about["removed"]) == ("upload", int((before & ~after).sum()))
    assert len(about["sha256"]) == 64
    changed = np.flatnonzero((before != after).any((1, 2)))
    assert [about["slices"][0]["z"][0], about["slices"][-1]["z"][1]] == [changed[0], changed[-1]]
    assert len(found.report.marks or []) == 1


def test_a_drawing_on_every_fourth_slice_is_completed(
    target: Volume, prepared: MedSAM2Volume, weights: Weights, spleen: np.ndarray
) -> None:
    slices = np.flatnonzero(spleen.any((1, 2)))
    drawn = [*slices[::4], slices[-1]]
    sparse = np.zeros_like(spleen)
    sparse[drawn] = spleen[drawn]
    after = refine_marked(target, prepared, weights, given(sparse)).labels.array == SPLEEN
    assert (after[drawn] == spleen[drawn]).all()
    assert mask_dice(after, spleen) > 0.9


def test_the_interactive_segmenter_refines_the_mask_of_its_options(
    target: Volume, weights: Weights, spleen: np.ndarray
) -> None:
    segmenter = Marked("medsam2", LoadedResources(None, weights))
    options, record = Options(masked=given(spleen)), StageRecord()
    with observing(record):
        found = segmenter.segment(target, options)
    assert ((found.labels.array == SPLEEN) == spleen).all()
    assert found.report.refined == {"mask": "upload", "sha256": given(spleen).sha256, "added": 0, "removed": 0, "slices": []}
    assert record.changes[: len(NETWORK)] == [*NETWORK]
    other = spleen.copy()
    other[np.flatnonzero(spleen.any((1, 2)))[0]] = False
    first, second = (segmenter.provenance(replace(options, masked=given(mask))) for mask in (spleen, other))
    assert first != second
    assert first["mask"] == given(spleen).sha256


def test_a_box_replaces_the_mask_of_its_slice_and_points_only_parts() -> None:
    current, found = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    current[5:25, 5:15], found[5:25, 9:25] = True, True
    changes = ChangeFilter.of(3.0, 1.0, (1, 1, 1))
    assert (settled(current, found, SliceMarks(0, box=(9, 5, 24, 24)), changes) == found).all()
    assert (settled(current, found, SliceMarks(0, inside=((20.0, 10.0),)), changes) == (current | found)).all()
    assert (settled(current, found, SliceMarks(0, outside=((6.0, 10.0),)), changes) == (current & found)).all()
    assert (settled(current, found, SliceMarks(0, outside=((28.0, 28.0),)), changes) == current).all()


def test_changes_are_described_by_ranges_of_slices() -> None:
    before, after = np.zeros((6, 4, 4), bool), np.zeros((6, 4, 4), bool)
    before[1], after[2, 0], after[5, 0, 0] = True, True, True
    assert described_changes(before, after) == {
        "added": 5,
        "removed": 16,
        "slices": [{"z": [1, 2], "added": 4, "removed": 16}, {"z": [5, 5], "added": 1, "removed": 0}],
    }
