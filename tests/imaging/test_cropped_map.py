"""Cropped maps behave like the whole maps from which they were cropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2_atlas.imaging.cropped_map import CroppedMap, box_around, lower_corner, nested, shape_of, within

SHAPE = (5, 6, 7)
lows = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])


@st.composite
def boxes(draw: st.DrawFn) -> tuple[slice, ...]:
    return tuple(slice(a := draw(st.integers(0, n - 1)), draw(st.integers(a + 1, n))) for n in SHAPE)


def grid_of(box: tuple[slice, ...]) -> np.ndarray:
    """Returns an array on the grid that is 0 outside of a box, and has different values inside."""
    grid = np.zeros(SHAPE, np.uint8)
    grid[box] = np.arange(1, 1 + np.prod(shape_of(box))).reshape(shape_of(box))
    return grid


def map_of(box: tuple[slice, ...]) -> CroppedMap:
    return CroppedMap(grid_of(box)[box], lower_corner(box))


@settings(deadline=None)
@given(boxes(), boxes())
def test_values_in_any_box_equal_those_of_the_whole_map(box: tuple[slice, ...], part: tuple[slice, ...]) -> None:
    grid, found = grid_of(box), map_of(box)
    assert (found.part(part) == grid[part]).all()
    assert (found.probabilities(part) == grid[part] / np.float32(255)).all()
    assert (found.uncropped(SHAPE) == grid).all()
    assert found.part(part).dtype == np.uint8 and found.probabilities(part).dtype == np.float32


@settings(deadline=None)
@given(boxes())
def test_cropping_restores_the_box_of_the_nonzero_values(box: tuple[slice, ...]) -> None:
    found = CroppedMap(grid_of(box), (0, 0, 0)).cropped()
    assert found.spans == box
    assert (found.values == grid_of(box)[box]).all()


def test_an_empty_map_has_no_values() -> None:
    found = CroppedMap(np.zeros(SHAPE, np.uint8), (0, 0, 0)).cropped()
    assert found.values.size == 0 and found.maximum == 0
    assert not found.uncropped(SHAPE).any()


@settings(deadline=None)
@given(boxes(), st.tuples(*[st.integers(-n, n) for n in SHAPE]))
def test_a_moved_map_loses_values_that_leave_the_grid(box: tuple[slice, ...], shift: tuple[int, ...]) -> None:
    found = map_of(box).moved(shift, SHAPE)
    wide = np.pad(grid_of(box), [(n, n) for n in SHAPE])
    expected = np.roll(wide, shift, (0, 1, 2))[tuple(slice(n, 2 * n) for n in SHAPE)]
    assert (found.uncropped(SHAPE) == (expected if expected.any() else grid_of(box))).all()


def test_the_box_around_maps_stays_within_the_grid() -> None:
    first, second = (CroppedMap(np.full((1, 2, 1), 9, np.uint8), low) for low in ((1, 1, 1), (2, 3, 4)))
    assert box_around([first, second], np.array([0.5, 1.0, 3.0]), SHAPE) == (slice(0, 4), slice(0, 6), slice(0, 7))
    assert box_around([second], np.zeros(3), SHAPE) == second.spans


@pytest.mark.parametrize("part", [(slice(0, 1), slice(1, 2), slice(2, 3))])
def test_a_box_inside_a_box_is_found_on_the_grid(part: tuple[slice, ...]) -> None:
    box = (slice(1, 4), slice(2, 6), slice(3, 7))
    grid = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    assert (grid[nested(box, part)] == grid[box][part]).all()


@settings(deadline=None)
@given(boxes(), boxes())
def test_within_is_the_inverse_of_nested(box: tuple[slice, ...], part: tuple[slice, ...]) -> None:
    assert within(box, nested(box, part)) == part
