"""Plots of curves."""

from __future__ import annotations

import pytest

from medsam2_atlas.experiment.reporting.curve_plots import Curve, Panel, curve_plot


def test_a_curve_has_as_many_values_as_places() -> None:
    with pytest.raises(ValueError, match="curve D: 2 places, 1 values"):
        Curve("D", (0, 1), (0.5,))
    with pytest.raises(ValueError, match="1 deviations"):
        Curve("D", (0, 1), (0.5, 0.6), (0.1,))


def test_curves_of_one_name_have_one_colour_in_all_panels_and_one_legend() -> None:
    first = Panel("shift (mm)", "Dice", (Curve("A", (0, 5), (0.8, 0.6)), Curve("B", (0, 5), (0.9, 0.7), (0.1, 0.1))))
    second = Panel("references", "centre error (mm)", (Curve("B", (1, 3), (20, 15)),), whole=True)
    figure = curve_plot([first, second])
    left, right = figure.axes
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]
    assert (left.get_xlabel(), right.get_ylabel()) == ("shift (mm)", "centre error (mm)")
    assert len(left.collections) == 1  # one band
    assert all(float(place).is_integer() for place in right.get_xticks())


def test_fifteen_curves_can_be_told_apart() -> None:
    curves = tuple(Curve(f"organ {number}", (0, 1), (0.5, 0.4)) for number in range(16))
    lines = curve_plot([Panel("shift (mm)", "Dice", curves)]).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 16
