"""Pictures of a slice on which two label maps differ."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.imaging.difference_picture import DIFFERENCE_COLOURS, draw_difference
from medsam2_atlas.imaging.labels import organ_table

LIVER, SPLEEN = 6, 1


def two_labels() -> tuple[np.ndarray, np.ndarray]:
    """Returns two slices `[y, x]`: the liver is shifted by ten columns, and a part of it is spleen in the second."""
    first, second = np.zeros((2, 100, 120), np.uint8)
    first[40:60, 50:70] = LIVER
    second[40:60, 60:80] = LIVER
    second[40:50, 60:70] = SPLEEN
    return first, second


def mixed(colour: tuple[int, int, int], grey: int) -> np.ndarray:
    return 0.5 * np.array(colour) + 0.5 * grey


def test_the_panels_show_both_label_maps_and_where_they_differ() -> None:
    first, second = two_labels()
    hu = np.full(first.shape, -160.0)  # black
    picture = np.asarray(draw_difference(hu, first, second, (1.0, 1.0), LIVER), float)
    assert picture.shape == (300, 912, 3)
    table = organ_table()
    scale, left, top = 300 / 91, 65 - 45, 50 - 45  # 90 mm around the middle of both livers, voxel (65, 50)

    def pixel(panel: int, x: int, y: int) -> np.ndarray:
        return picture[int((y - top + 0.5) * scale), int(panel * 306 + (x - left + 0.5) * scale)]

    assert np.abs(pixel(0, 55, 55) - mixed(table[LIVER].colour, 0)).max() < 3
    assert np.abs(pixel(1, 65, 45) - mixed(table[SPLEEN].colour, 0)).max() < 3
    for place, value in (((55, 55), 1), ((75, 55), 2), ((65, 45), 3)):
        assert np.abs(pixel(2, *place) - mixed(DIFFERENCE_COLOURS[value], 0)).max() < 3
    assert pixel(2, 65, 55).max() < 3  # both agree
    assert pixel(0, 30, 20).max() < 3


def test_pixels_of_any_size_are_drawn_to_scale_and_an_absent_organ_shows_the_whole_slice() -> None:
    first, second = two_labels()
    hu = np.full(first.shape, 240.0)  # white
    tall = np.asarray(draw_difference(hu, first, second, (0.5, 2.0), SPLEEN + 1))
    white = tall[:, :300].min(2) > 250
    columns, rows = np.flatnonzero(white.any(0)), np.flatnonzero(white.any(1))
    assert len(rows) == 300
    assert abs(len(columns) - 300 * (120 * 0.5) / (100 * 2.0)) <= 1
