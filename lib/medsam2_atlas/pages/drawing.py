"""Plots for pages: one style, a palette that colour-blind people can tell apart, box plots, and SVG and PNG files.

The files depend on nothing but the plot and the version of matplotlib: they contain no dates and no random names. SVG files
follow the screen: on a dark one, text, axes and grids become light.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7a8793")
"""Colours of series. The first six are those of Okabe and Ito (2008), without black and yellow."""
INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#d5dbe2"
"""Colours of text and axes, of secondary lines, and of grids."""
_DARK = {INK: "#e6eaee", MUTED: "#a9b4c0", GRID: "#3a444f"}

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "medsam2_atlas",
    "text.color": INK,
    "text.parse_math": False,  # names of folders may contain dollar signs
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style of plots within a `with` block, or to a decorated function; a user's own style has no effect."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def colour(number: int) -> str:
    """Returns the colour of a series; colours repeat after eight series."""
    return PALETTE[number % len(PALETTE)]


def grouped_boxes(
    axes: Axes, groups: Sequence[str], series: Sequence[tuple[str, Sequence[Sequence[float]]]], colours: Sequence[str] = ()
) -> list[tuple[Artist, str]]:
    """Draws box plots, side by side in groups.

    A box extends from the first to the third quartile, its line is the median, and its whiskers end at the last value within
    1.5 times the box. Dots are values beyond.

    Args:
        axes: the axes to draw on; the groups lie at x = 0, 1, 2, ….
        groups: names of the groups, for the x axis.
        series: name of each series, and its values in each group; empty for no box.
        colours: one colour per series; those of `colour` by default.

    Returns:
        A handle and a name for the legend, for each series with a box.
    """
    width, handles = 0.8 / max(1, len(series)), []
    for number, (name, values) in enumerate(series):
        drawn = [group for group in range(len(groups)) if len(values[group])]
        if not drawn:
            continue
        fill = colours[number] if colours else colour(number)
        boxes = axes.boxplot(
            [list(values[group]) for group in drawn],
            positions=[group + (number - (len(series) - 1) / 2) * width for group in drawn],
            widths=0.8 * width,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": fill, "edgecolor": INK, "linewidth": 0.7, "alpha": 0.9},
            medianprops={"color": INK, "linewidth": 1.4},
            whiskerprops={"color": MUTED, "linewidth": 0.8},
            capprops={"color": MUTED, "linewidth": 0.8},
            flierprops={"marker": "o", "markersize": 2.5, "markerfacecolor": fill, "markeredgecolor": fill},
        )
        handles.append((boxes["boxes"][0], name))
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(visible=False, axis="x")
    for place in range(1, len(groups)):
        axes.axvline(place - 0.5, color=GRID, linewidth=0.7, zorder=0)
    return handles


def svg(figure: Figure) -> bytes:
    """Returns a figure as SVG with a transparent background; its texts and axes are light on a dark screen."""
    content = _saved(figure, "svg", metadata={"Creator": None, "Date": None}).decode()
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}' for light, dark in _DARK.items() for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(r"(<svg [^>]*>)", lambda start: start[1] + style, content, count=1).encode()


def png(figure: Figure) -> bytes:
    """Returns a figure as PNG with a white background."""
    return _saved(figure, "png", metadata={"Software": None}, dpi=110, facecolor="white")


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as an empty box
        figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
