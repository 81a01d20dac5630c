"""A refinement changes what the marks and the network agree on, and nothing else. A scripted network makes that visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from medsam2_atlas.medsam2.mask_changes import ChangeFilter
from medsam2_atlas.medsam2.refining import RefinedMask, Refiner, RefineRules
from medsam2_atlas.medsam2.tracks import Memory, Points, Track
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks

SHAPE = (16, 48, 48)
SPACING = (1.0, 1.0, 2.0)


class ScriptedNetwork:
    """Stands for the propagator: it finds a given mask on every slice, and records what conditioned it.

    Attributes:
        tracked: the tracked slices, in order.
        conditioned: for each tracked slice, the slices that conditioned it from the start.
    """

    def __init__(self, finds: np.ndarray) -> None:
        self._finds = finds
        self.tracked: list[int] = []
        self.conditioned: dict[int, set[int]] = {}
        self.remembered: dict[int, np.ndarray] = {}
        self.prompts: dict[int, Track] = {}

    def known(self, z: int, mask: np.ndarray) -> tuple[torch.Tensor, Memory]:
        self.remembered[z] = mask.copy()
        return logits_of(mask), Memory(None, torch.zeros(1, 1))

    def run(self, tracks: Sequence[Track], progress: Any = None) -> None:
        for track in tracks:
            for z in track.starts:
                track.logits[z] = logits_of(self._finds[z])
                track.starting[z] = Memory(None, torch.zeros(1, 1))
                self.prompts[z] = track
            for step in range(len(track)):
                z = track.slice_at(step)
                if track.ended:
                    break
                if z not in track.starting:
                    self.tracked.append(z)
                    self.conditioned[z] = set(track.starting)
                    track.logits[z] = logits_of(self._finds[z])
                if z in track.corrections:
                    self.prompts[z] = track
                track.end_if_lost(z)


def logits_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(mask, 5.0, -5.0).astype(np.float32))[None]


def block(z: tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[z[0] : z[1], y[0] : y[1], x[0] : x[1]] = True
    return mask


ORGAN = block((2, 14), (10, 30), (10, 30))
LEAK = block((6, 11), (14, 26), (30, 42))
FILTER = ChangeFilter.of(4.0, 1.0, SPACING)


def refined(
    current: np.ndarray, finds: np.ndarray, *marks: SliceMarks, memories: int = 4, z_range: tuple[int, int] | None = None
) -> tuple[RefinedMask, ScriptedNetwork]:
    """Refines a mask; a marked slice gets the network's mask."""
    network = ScriptedNetwork(finds)
    covered = np.flatnonzero(current.any((1, 2)))
    ends = [*covered.tolist(), *(m.z for m in marks)]
    z_min, z_max = z_range or (min(ends), max(ends))
    organ = MaskedOrgan(6, current, marks, z_min, z_max)

    def points(marks: SliceMarks) -> Points:
        return Points(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int32))

    rules = RefineRules(memories, FILTER, patience=2)
    return Refiner(network, points, organ, rules, lambda marks, found: found.copy()).run(), network  # type: ignore[arg-type]


def test_a_removed_leak_is_removed_on_the_slices_around_where_the_network_agrees() -> None:
    result, _ = refined(ORGAN | LEAK, ORGAN, SliceMarks(8, outside=((36.0, 20.0),)))
    assert (result.mask == ORGAN).all()


def test_an_added_part_is_added_on_the_slices_around_where_the_network_agrees() -> None:
    result, _ = refined(ORGAN & ~LEAK & ~block((6, 11), (14, 24), (22, 30)), ORGAN, SliceMarks(8, inside=((26.0, 20.0),)))
    assert (result.mask == ORGAN).all()


def test_without_marks_a_complete_mask_stays_whatever_the_network_finds() -> None:
    result, network = refined(ORGAN, np.zeros(SHAPE, bool))
    assert (result.mask == ORGAN).all()
    assert network.tracked == []


def test_changes_in_the_other_direction_are_not_accepted() -> None:
    """The mark removes a leak. The network also wants to add something on the next slices."""
    wishes = ORGAN | block((9, 11), (30, 44), (10, 30))
    result, _ = refined(ORGAN | LEAK, np.where(np.arange(16)[:, None, None] == 8, ORGAN, wishes), SliceMarks(8))
    assert (result.mask == ORGAN).all()


def test_changes_that_are_not_connected_to_the_correction_are_not_accepted() -> None:
    elsewhere = block((9, 14), (10, 20), (10, 18))
    finds = ORGAN & ~elsewhere
    finds[8] = ORGAN[8]
    result, _ = refined(ORGAN | LEAK, finds, SliceMarks(8))
    assert (result.mask == ORGAN).all()


def test_thin_differences_of_the_border_are_not_accepted() -> None:
    finds = block((2, 14), (10, 30), (12, 30))
    finds[8] = ORGAN[8]
    result, _ = refined(ORGAN | LEAK, finds, SliceMarks(8))
    assert (result.mask == ORGAN).all()


def test_the_propagation_ends_at_the_first_slice_that_does_not_agree() -> None:
    agrees = ORGAN | block((10, 11), (14, 26), (30, 42))
    result, network = refined(ORGAN | LEAK, agrees, SliceMarks(8))
    assert (result.mask == agrees).all()
    assert network.tracked == [8, 9, 10, 7, 6, 5]


def test_a_change_grows_from_slice_to_slice_by_the_slope_only() -> None:
    """The network loses the organ beside the leak; the removal must not take it away."""
    finds = ORGAN & ~block((9, 14), (0, 48), (0, 48))
    result, _ = refined(ORGAN | LEAK, finds, SliceMarks(8))
    assert (result.mask[9] & ORGAN[9]).sum() > 0.85 * ORGAN[9].sum()
    assert not (result.mask[9] & LEAK[9] & ~ORGAN[9]).any()


def test_a_slice_on_which_the_network_loses_the_organ_does_not_change() -> None:
    """The organ is nearly as small as the slope, so only its area shows that the network has lost it."""
    thin = block((2, 14), (10, 16), (10, 16))
    half = block((2, 14), (10, 13), (10, 16))
    finds = thin & (np.arange(16) == 8)[:, None, None] & half
    result, _ = refined(thin, finds, SliceMarks(8))
    assert (result.mask[8] == half[8]).all()
    assert (np.delete(result.mask, 8, 0) == np.delete(thin, 8, 0)).all()


def test_an_emptied_slice_empties_the_slices_beyond_it() -> None:
    result, _ = refined(ORGAN, ORGAN & block((2, 10), (0, 48), (0, 48)), SliceMarks(12))
    assert (result.mask == ORGAN & block((2, 10), (0, 48), (0, 48))).all()


def test_a_changed_slice_enters_the_memory_with_its_new_mask() -> None:
    _, network = refined(ORGAN | LEAK, ORGAN, SliceMarks(8))
    assert (network.remembered[9] == ORGAN[9]).all()


def test_a_slice_is_never_tracked_with_its_own_mask_in_the_memory() -> None:
    _, network = refined(ORGAN | LEAK, ORGAN, SliceMarks(8), memories=32)
    assert all(z not in known for z, known in network.conditioned.items())
    assert network.conditioned[9] >= {8, 2, 13}


def test_a_bounded_number_of_slices_conditions_the_marked_slice() -> None:
    _, network = refined(ORGAN, ORGAN, SliceMarks(8), memories=3)
    assert len(network.conditioned[8]) == 3
    assert 8 not in network.conditioned[8]


def test_the_marked_slice_is_decoded_with_its_current_mask() -> None:
    _, network = refined(ORGAN | LEAK, ORGAN, SliceMarks(8))
    assert ((network.prompts[8].previous[8][0].numpy() > 0) == (ORGAN | LEAK)[8]).all()


def test_a_mask_on_the_marked_slice_only_is_segmented_from_the_marks() -> None:
    alone = ORGAN & block((8, 9), (0, 48), (0, 48))
    result, network = refined(alone, ORGAN, SliceMarks(8, inside=((20.0, 20.0),)))
    assert 8 in network.prompts[8].starts
    assert (result.mask == alone).all()


def test_missing_slices_inside_the_mask_are_tracked_from_both_sides() -> None:
    sparse = ORGAN.copy()
    sparse[[3, 4, 5, 6, 8, 9, 10, 11, 12]] = False
    result, network = refined(sparse, ORGAN)
    assert (result.mask == ORGAN).all()
    assert sorted(network.tracked) == [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert {2, 7} <= network.conditioned[4] & network.conditioned[5]


def test_a_mark_beyond_the_end_extends_the_mask_to_it_and_no_further() -> None:
    short = ORGAN & block((2, 10), (0, 48), (0, 48))
    result, _ = refined(short, block((0, 16), (10, 30), (10, 30)), SliceMarks(12, inside=((20.0, 20.0),)))
    assert (result.mask == block((2, 13), (10, 30), (10, 30))).all()


def test_a_given_range_extends_the_mask_until_the_organ_ends() -> None:
    short = ORGAN & block((6, 10), (0, 48), (0, 48))
    result, network = refined(short, ORGAN, z_range=(4, 15))
    assert (result.mask == ORGAN & block((4, 16), (0, 48), (0, 48))).all()
    assert max(network.tracked) == 15


def test_tracked_pieces_that_are_not_connected_to_the_mask_are_removed() -> None:
    sparse = ORGAN.copy()
    sparse[7:9] = False
    result, _ = refined(sparse, ORGAN | block((7, 9), (34, 44), (34, 44)))
    assert (result.mask == ORGAN).all()


def test_the_signs_of_the_logits_are_the_mask_and_unchanged_slices_have_ten() -> None:
    result, _ = refined(ORGAN | LEAK, ORGAN, SliceMarks(8))
    for z in range(SHAPE[0]):
        assert ((result.plane(z).numpy() > 0) == result.mask[z]).all()
    assert result.plane(3).abs().unique().tolist() == [10.0]
    assert result.plane(8).abs().unique().tolist() == [5.0]


@pytest.mark.parametrize(
    ("marks", "z_min", "z_max"), [((SliceMarks(1),), 2, 13), ((SliceMarks(3), SliceMarks(3)), 2, 13), ((), 3, 13), ((), 2, 16)]
)
def test_marks_and_mask_must_lie_in_the_range(marks: tuple[SliceMarks, ...], z_min: int, z_max: int) -> None:
    with pytest.raises(ValueError, match="label 6"):
        MaskedOrgan(6, ORGAN, marks, z_min, z_max)


def test_an_empty_mask_cannot_be_refined() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        MaskedOrgan(6, np.zeros(SHAPE, bool), (), 0, 15)
