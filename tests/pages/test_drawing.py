"""The style of plots and their files."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from medsam2_atlas.pages import INK, PALETTE, colour, grouped_boxes, png, styled, svg


@styled()
def drawn(title: str = "plot") -> Figure:
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    grouped_boxes(axes, ["a", "b"], [("x", [[0.1, 0.2, 0.3], []]), ("y", [[0.5], [0.7]]), ("none", [[], []])])
    axes.set_title(title)
    return figure


def test_files_of_a_plot_are_the_same_byte_for_byte() -> None:
    assert svg(drawn()) == svg(drawn())
    assert png(drawn()) == png(drawn())


def test_files_contain_no_date_and_no_version() -> None:
    for content in (svg(drawn()), png(drawn())):
        assert b"<dc:date>" not in content
        assert b"Matplotlib v" not in content
        assert b"Software" not in content


def test_text_of_a_vector_plot_becomes_light_on_dark_screens() -> None:
    content = svg(drawn()).decode()
    assert "@media (prefers-color-scheme: dark)" in content
    assert f'[style*="fill: {INK}"]{{fill:' in content
    assert f"fill: {INK}" in content.partition("</style>")[2]  # the rule has something to change


def test_names_with_dollar_signs_and_unknown_letters_are_drawn_as_they_are() -> None:
    assert svg(drawn("$\\bad$ 腹部")).startswith(b"<?xml")


def test_the_style_ends_with_its_block() -> None:
    before = mpl.rcParams["svg.hashsalt"]
    with styled():
        assert mpl.rcParams["svg.hashsalt"] == "medsam2_atlas"
    assert mpl.rcParams["svg.hashsalt"] == before


@styled()
def test_boxes_stand_side_by_side_in_their_groups() -> None:
    axes = Figure().subplots()
    handles = grouped_boxes(axes, ["a", "b"], [("x", [[0.1, 0.2, 0.3], []]), ("y", [[0.5], [0.7]]), ("none", [[], []])])
    assert [name for _, name in handles] == ["x", "y"]  # a series without values has no legend
    boxes = list(axes.patches)
    places = [
        float(np.mean([patch.get_path().vertices[:4, 0].min(), patch.get_path().vertices[:4, 0].max()])) for patch in boxes
    ]
    np.testing.assert_allclose(places, [-0.8 / 3, 0, 1], atol=1e-9)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_colours_repeat_after_the_palette() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
    assert colour(len(PALETTE) + 1) == PALETTE[1]
