"""Confusion between organs: which organs, or background, a prediction contains in place of each organ."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.pages import GRID, INK, PALETTE, styled

_MIN_SHOWN = 0.005
"""Smaller shares have no number and no colour."""
_SCALE_END = 0.3
"""Shares from here on have the darkest colour."""


def confusion_shares(results: Results, variant: Variant) -> np.ndarray:
    """Returns the shares of each organ's true voxels that the prediction gives to each organ, `[organ, organ + 1]`.

    Rows are organs of the ground truth, columns are organs of the prediction, both in the order of `results.organs`; the last
    column is the background. A share is the mean over the cases that contain the organ, so that each case counts the same,
    whatever its spacing. A row is NaN if no case contains the organ. Organs that the experiment does not list count as
    background.

    Args:
        results: the experiment.
        variant: the variant.
    """
    place = {organ: number for number, organ in enumerate(results.organs)}
    total, cases = np.zeros((len(place), len(place) + 1)), np.zeros(len(place))
    for record in results.of(variant).values():
        counts = np.zeros_like(total)
        for truth, predicted, voxels in record.confusion:
            if truth in place and truth in record.counted:
                counts[place[truth], place.get(predicted, len(place))] += voxels
        sums = counts.sum(axis=1)
        total[sums > 0] += counts[sums > 0] / sums[sums > 0, None]
        cases += sums > 0
    shares: np.ndarray = np.full_like(total, np.nan)
    np.divide(total, cases[:, None], out=shares, where=cases[:, None] > 0)
    return shares


@styled()
def confusion_plot(results: Results, variant: Variant) -> Figure:
    """Draws the shares of `confusion_shares` as a heat map of errors, with percentages; correct shares have no colour.

    Args:
        results: the experiment.
        variant: the variant.
    """
    shares = confusion_shares(results, variant)
    names = [organ_table()[organ].display for organ in results.organs]
    errors = np.ma.masked_invalid(shares.copy())
    errors[np.arange(len(names)), np.arange(len(names))] = np.ma.masked
    errors = np.ma.masked_less(errors, _MIN_SHOWN)
    # Transparent for small shares, so that the colours suit light and dark pages.
    colours = LinearSegmentedColormap.from_list("errors", [(*to_rgb(PALETTE[1]), 0.15), (*to_rgb(PALETTE[1]), 1.0)])
    figure = Figure(figsize=(11, 7.2))
    axes = figure.subplots()
    axes.pcolormesh(errors, cmap=colours, vmin=0, vmax=_SCALE_END)
    for (row, column), share in np.ndenumerate(shares):
        right = row == column
        if np.isfinite(share) and (right or share >= _MIN_SHOWN):
            number = f"{100 * share:.0f}" if right or share >= 0.095 else f"{100 * share:.1f}"
            axes.text(
                column + 0.5, row + 0.5, number, ha="center", va="center", color=INK, fontsize=8.5,
                fontweight="bold" if right else "normal",
            )  # fmt: skip
    axes.set_xticks(np.arange(len(names) + 1) + 0.5, [*names, "background"], rotation=40, ha="right")
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.set(xlabel="organ in the prediction", ylabel="organ in the ground truth", title=variant.name)
    axes.invert_yaxis()
    axes.grid(visible=False)
    for line in range(1, len(names) + 1):
        axes.axvline(line, color=GRID, linewidth=0.6)
        axes.axhline(line, color=GRID, linewidth=0.6)
    axes.tick_params(length=0)
    return figure
