"""The overlap of two label maps: changes, Dice and the worst slices."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.evaluation.agreement import difference_map
from medsam2_atlas.evaluation.label_overlap import Overlap
from medsam2_atlas.imaging.dice import dice

GENERATOR = np.random.default_rng(3)
FIRST, SECOND = (GENERATOR.integers(0, 5, (6, 7, 8)).astype(np.uint8) for _ in range(2))


def test_changes_are_those_of_the_masks() -> None:
    changes = Overlap.of(FIRST, SECOND, 0.5).changes()
    assert set(changes) == {1, 2, 3, 4}
    for k, change in changes.items():
        before, after = k == FIRST, k == SECOND
        assert change == {
            "ml": after.sum() / 2,
            "added_ml": (after & ~before).sum() / 2,
            "removed_ml": (before & ~after).sum() / 2,
        }


def test_without_a_first_label_map_all_is_added() -> None:
    overlap = Overlap.of(None, SECOND, 1.0)
    assert overlap.changes() == {
        k: {"ml": n, "added_ml": n, "removed_ml": 0} for k in range(1, 5) for n in [(k == SECOND).sum()]
    }
    assert Overlap.of(None, np.zeros_like(SECOND), 1.0).changes() == {}


def test_an_organ_that_only_the_first_has_is_all_removed() -> None:
    overlap = Overlap.of(np.where(FIRST == 0, 15, FIRST), SECOND, 1.0)
    assert overlap.changes()[15] == {"ml": 0, "added_ml": 0, "removed_ml": (FIRST == 0).sum()}
    assert overlap.second_organs == {1, 2, 3, 4}
    assert overlap.differences(9)[15]["dice"] == 0


def test_differences_are_the_dice_and_the_slices_that_differ_most() -> None:
    found = Overlap.of(FIRST, SECOND, 1.0).differences(3)
    for k, one in found.items():
        assert one["dice"] == pytest.approx(dice(k == FIRST, k == SECOND), abs=1e-4)
        assert (one["first_ml"], one["second_ml"]) == ((k == FIRST).sum(), (k == SECOND).sum())
        counts = ((k == FIRST) != (k == SECOND)).sum((1, 2))
        assert [counts[z] for z in one["worst"]] == sorted(counts, reverse=True)[:3]


def test_slices_that_agree_are_not_among_the_worst() -> None:
    other = FIRST.copy()
    other[4, 2, 2] = (other[4, 2, 2] + 1) % 5
    found = Overlap.of(FIRST, other, 1.0).differences(5)
    assert {z for one in found.values() for z in one["worst"]} == {4}


def test_values_beyond_the_organ_table_are_counted() -> None:
    assert Overlap.of(None, np.full((2, 2, 2), 200, np.uint8), 1.0).changes() == {
        200: {"ml": 8, "added_ml": 8, "removed_ml": 0}
    }


def test_label_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        Overlap.of(FIRST[1:], SECOND, 1.0)


def test_the_map_of_differences_names_each_kind() -> None:
    first, second = (np.array(values, np.uint8).reshape(1, 1, 4) for values in ([1, 0, 1, 2], [0, 2, 3, 2]))
    assert difference_map(first, second).ravel().tolist() == [1, 2, 3, 0]
