"""Plots of accuracy: Dice per organ, Dice against the error of the prompt, and agreement of volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.pages import GRID, INK, MUTED, colour, grouped_boxes, styled

MAX_ERROR_MM = 60.0
"""Larger errors of prompts are drawn at this value, in mm."""
_ERROR_BINS_MM = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, np.inf)
_MIN_IN_BIN = 3
_ORGANS_IN_ROW = 5
_MAX_SEGMENTERS_IN_ONE_ROW = 2


@styled()
def dice_plot(results: Results) -> Figure:
    """Draws box plots of Dice per organ, one box per main variant; each value is one case."""
    table, variants = organ_table(), results.main
    in_row = len(results.organs) if len(variants) <= _MAX_SEGMENTERS_IN_ONE_ROW else _ORGANS_IN_ROW
    rows = [results.organs[start : start + in_row] for start in range(0, len(results.organs), in_row)]
    figure = Figure(figsize=(11, 0.5 + 2.7 * len(rows)))
    handles: dict[str, Artist] = {}
    for axes, organs in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        series = [(v.name, [[*results.values(v, "dice", organ).values()] for organ in organs]) for v in variants]
        names = [table[organ].display for organ in organs]
        drawn = grouped_boxes(axes, names, series, [colour(number) for number in range(len(variants))])
        handles |= {name: handle for handle, name in drawn}
        if len(organs) > _ORGANS_IN_ROW:
            axes.set_xticks(range(len(organs)), names, rotation=35, ha="right")
        axes.set_xlim(-0.5, min(in_row, len(results.organs)) - 0.5)
        axes.set(ylabel="Dice", ylim=(-0.02, 1.02))
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=min(8, len(handles)))
    return figure


def prompt_pairs(results: Results, variant: Variant) -> np.ndarray:
    """Returns centre error of the first prompt (mm) and Dice `[n, 2]`, one row per organ and case with a prompt.

    Args:
        results: the experiment.
        variant: the variant.
    """
    pairs = []
    for organ in results.organs:
        errors, dice = results.values(variant, "centre_mm", organ), results.values(variant, "dice", organ)
        pairs += [(errors[case], dice[case]) for case in errors if case in dice]
    return np.array(pairs, float).reshape(-1, 2)


def binned_medians(pairs: np.ndarray) -> np.ndarray:
    """Returns medians `[n, 2]` of both columns in bins of the first one; bins with fewer than three rows are omitted.

    Args:
        pairs: centre errors in mm and Dice `[n, 2]`.
    """
    where = np.digitize(pairs[:, 0], _ERROR_BINS_MM)
    groups = [pairs[where == number] for number in range(1, len(_ERROR_BINS_MM))]
    return np.array([np.median(group, axis=0) for group in groups if len(group) >= _MIN_IN_BIN]).reshape(-1, 2)


@styled()
def prompt_plot(results: Results) -> Figure | None:
    """Draws Dice against the prompt's centre error: a dot per organ and case, and the median of each bin of the error.

    Variants whose prompts come from the ground truth, and therefore have no error, are omitted.

    Returns:
        The figure; None if no main variant has prompts with errors.
    """
    shown = {(n, v): prompt_pairs(results, v) for n, v in enumerate(results.main)}
    shown = {key: pairs for key, pairs in shown.items() if len(pairs) and pairs[:, 0].max() > 0.01}
    if not shown:
        return None
    figure, panels = _panels(len(shown))
    end = min(MAX_ERROR_MM, max(float(pairs[:, 0].max()) for pairs in shown.values()))
    for axes, ((number, variant), pairs) in zip(panels, shown.items(), strict=True):
        drawn = np.minimum(pairs, (MAX_ERROR_MM, 1))
        axes.plot(*drawn.T, "o", color=colour(number), markersize=3, alpha=0.45, markeredgewidth=0, rasterized=True)
        medians = np.minimum(binned_medians(pairs), (MAX_ERROR_MM, 1))
        axes.plot(*medians.T, "o-", color=INK, markersize=4, linewidth=1.5)
        axes.set(title=variant.name, xlim=(-1, end + 1), ylim=(-0.02, 1.02))
    figure.supxlabel("centre error of the prompt (mm)", color=INK, fontsize=10)
    figure.supylabel("Dice", color=INK, fontsize=10)
    return figure


def volume_pairs(results: Results, variant: Variant) -> tuple[np.ndarray, int]:
    """Returns volumes in ground truth and prediction `[n, 2]` in ml, and the number of organs that only one of them contains.

    Args:
        results: the experiment.
        variant: the variant.
    """
    found = [
        (result.truth_ml, result.predicted_ml)
        for record in results.of(variant).values()
        for result in record.organs
        if result.organ in results.organs
    ]
    pairs = np.array(found, float).reshape(-1, 2)
    both = (pairs > 0).all(axis=1)
    return pairs[both], int((~both).sum())


def limits_of_agreement(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, Mapping[str, float]]:
    """Returns mean volumes `[n]` in ml, relative differences `[n]` in percent, and bias and limits of agreement in percent.

    The difference is prediction minus ground truth, relative to the mean of both (Bland and Altman 1999): the
    volumes of organs differ by a factor of several hundred, and differences grow with the volume. The limits of agreement are
    bias ± 1.96 standard deviations; they are omitted for fewer than two rows.

    Args:
        pairs: volumes in ground truth and prediction `[n, 2]` in ml, above 0.
    """
    mean = pairs.mean(axis=1)
    difference = 100 * (pairs[:, 1] - pairs[:, 0]) / mean
    limits = {"bias": float(difference.mean())} if len(pairs) else {}
    if len(pairs) > 1:
        spread = 1.96 * float(difference.std(ddof=1))
        limits |= {"lower": limits["bias"] - spread, "upper": limits["bias"] + spread}
    return mean, difference, limits


@styled()
def volume_plot(results: Results) -> Figure | None:
    """Draws Bland–Altman plots of the organs' volumes, one panel per main variant.

    Returns:
        The figure; None if no organ is in a ground truth and in its prediction.
    """
    shown = {(n, v): volume_pairs(results, v)[0] for n, v in enumerate(results.main)}
    shown = {key: pairs for key, pairs in shown.items() if len(pairs)}
    if not shown:
        return None
    figure, panels = _panels(len(shown))
    for axes, ((number, variant), pairs) in zip(panels, shown.items(), strict=True):
        mean, difference, limits = limits_of_agreement(pairs)
        axes.axhline(0, color=GRID, linewidth=1)
        axes.plot(mean, difference, "o", color=colour(number), markersize=3, alpha=0.5, markeredgewidth=0, rasterized=True)
        for name, value in limits.items():
            tint, dash = (INK, "-") if name == "bias" else (MUTED, "--")
            axes.axhline(value, color=tint, linestyle=dash, linewidth=1.2)
            on_edge = axes.get_yaxis_transform()
            words = f"{value:+.0f} %".replace("-", "−")
            axes.text(0.99, value, words, transform=on_edge, ha="right", va="bottom", fontsize=8.5)
        axes.set(title=variant.name, xscale="log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.grid(visible=False, which="minor")
    figure.supxlabel("mean volume of ground truth and prediction (ml)", color=INK, fontsize=10)
    figure.supylabel("difference (% of the mean)", color=INK, fontsize=10)
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """Returns a figure with panels that share their axes, at most three in a row."""
    columns = min(3, count)
    rows = ceil(count / columns)
    figure = Figure(figsize=(11 if columns > 1 else 6, 0.5 + 3.0 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for unused in panels[count:]:
        unused.set_axis_off()
    for above in panels[max(0, count - columns) : count]:  # the panel below it may be unused
        above.tick_params(labelbottom=True)
    return figure, list(panels[:count])
