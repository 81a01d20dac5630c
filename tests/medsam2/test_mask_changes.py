"""Changes of a mask are accepted if they are thick, connected to a correction and near it."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.medsam2.mask_changes import Change, ChangeFilter

NONE = np.zeros((40, 40), bool)


def block(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = NONE.copy()
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(("spacing", "accepted"), [(1.0, True), (0.5, False)])
def test_the_min_thickness_is_in_millimetres(spacing: float, accepted: bool) -> None:
    part, points = block(10, 30, 10, 15), block(20, 21, 12, 13)  # five pixels thick
    changes = ChangeFilter.of(4.0, 1.0, (spacing, spacing, 5.0))
    assert changes.at(Change(part, NONE), points, NONE).added.any() == accepted


def test_an_accepted_part_keeps_its_corners() -> None:
    part = block(10, 20, 10, 20)
    assert (ChangeFilter.of(4.0, 1.0, (1, 1, 5)).at(Change(part, NONE), part, NONE).added == part).all()


def test_a_thin_bridge_does_not_connect_two_parts() -> None:
    parts = block(10, 20, 5, 15) | block(14, 15, 15, 25) | block(10, 20, 25, 35)
    accepted = ChangeFilter.of(4.0, 1.0, (1, 1, 5)).at(Change(NONE, parts), NONE, block(15, 16, 10, 11)).removed
    assert accepted[15, 10]
    assert not accepted[:, 20:].any()


def test_points_accept_changes_of_their_own_direction_only() -> None:
    part, points = block(10, 20, 10, 20), block(15, 16, 15, 16)
    changes = ChangeFilter.of(4.0, 1.0, (1, 1, 5))
    assert not changes.at(Change(part, NONE), NONE, points)
    assert not changes.at(Change(NONE, part), points, NONE)


@pytest.mark.parametrize(("slope", "reach"), [(0.5, 4), (1.0, 8)])
def test_a_change_reaches_as_far_beyond_the_previous_one_as_the_slope_allows(slope: float, reach: int) -> None:
    wide, before = block(5, 35, 5, 35), block(15, 25, 5, 15)
    accepted = ChangeFilter.of(4.0, slope, (1, 1, 8)).connected(Change(wide, NONE), Change(before, NONE)).added
    assert np.flatnonzero(accepted[20]).max() == 14 + reach


def test_a_change_is_applied_to_a_mask() -> None:
    first, second = block(5, 20, 5, 20), block(10, 30, 10, 30)
    change = Change.between(first, second)
    assert (change.applied(first) == second).all()
    assert not Change.between(first, first)
