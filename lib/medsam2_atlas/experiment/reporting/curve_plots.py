"""Plots of curves, such as Dice over the distance of a jitter, or over the number of references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medsam2_atlas.pages import PALETTE, colour, styled

_LINES = ("o-", "s--", "^:")
"""Marks and lines of the curves, one for each turn through all colours."""


@dataclass(frozen=True)
class Curve:
    """A curve.

    Attributes:
        name: name in the legend.
        x: places, in ascending order.
        y: one value per place.
        deviation: half the height of the band around the curve at each place, such as a standard deviation; empty for no band.

    Raises:
        ValueError: if the sequences have different lengths.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or (len(self.deviation) and len(self.deviation) != len(self.x)):
            raise ValueError(f"curve {self.name}: {len(self.x)} places, {len(self.y)} values, {len(self.deviation)} deviations")


@dataclass(frozen=True)
class Panel:
    """Curves with the same axes.

    Attributes:
        x_label: label of the x axis, with its unit.
        y_label: label of the y axis, with its unit.
        curves: the curves; curves of the same name have the same colour in all panels.
        title: title; empty for none.
        y_limits: ends of the y axis; None to fit the curves.
        whole: whether places are whole numbers, such as numbers of references.
    """

    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    title: str = ""
    y_limits: tuple[float, float] | None = None
    whole: bool = False


@styled()
def curve_plot(panels: Sequence[Panel]) -> Figure:
    """Draws panels of curves, at most three in a row, with one legend. Curves of one colour differ in line and mark.

    Args:
        panels: the panels; at least one.
    """
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=((6, 9, 11)[columns - 1], 0.5 + 3.1 * rows))
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    handles = {}
    for axes, panel in zip(places, panels, strict=False):
        for curve in panel.curves:
            number = names.index(curve.name)
            tint, line = colour(number), _LINES[number // len(PALETTE) % len(_LINES)]
            (handles[curve.name],) = axes.plot(curve.x, curve.y, line, color=tint, markersize=4, linewidth=1.6)
            if len(curve.deviation):
                y, spread = np.asarray(curve.y, float), np.asarray(curve.deviation, float)
                axes.fill_between(curve.x, y - spread, y + spread, color=tint, alpha=0.15, linewidth=0)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, ylim=panel.y_limits)
        if panel.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for unused in places[len(panels) :]:
        unused.set_axis_off()
    if len(names) > 1:
        figure.legend([handles[name] for name in names], names, loc="outside upper left", ncols=min(6, len(names)))
    return figure
