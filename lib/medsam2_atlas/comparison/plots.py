"""Draws the plots of a comparison."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from medsam2_atlas.comparison.studies import Comparison
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.pages import colour, grouped_boxes, styled


@styled()
def dice_per_organ_plot(result: Comparison) -> Figure:
    """Draws box plots of Dice per organ: between the models, and between each model and the signed-off labels, if any."""
    table = organ_table()
    series: list[tuple[str, dict[int, list[float]]]] = []
    for model in result.models:
        values: dict[int, list[float]] = {}
        for case in result.cases:
            for k, score in case.final.get(model, {}).items():
                values.setdefault(k, []).append(score.dice)
        if values:
            series.append((f"{model} to final", values))
    between: dict[int, list[float]] = {}
    for case in result.cases:
        for k, score in case.scores.items():
            between.setdefault(k, []).append(score.dice)
    series.append(("between the models", between))
    figure = Figure(figsize=(11, 4.2))
    axes = figure.subplots()
    organs = [organ.display for organ in table.organs]
    handles = grouped_boxes(axes, organs, [(name, [values.get(k, []) for k in table.indices]) for name, values in series])
    axes.tick_params(axis="x", labelrotation=35)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
    axes.set(ylabel="Dice", ylim=(0, 1.02))
    if handles:
        axes.legend(*zip(*handles, strict=True), loc="lower left")
    return figure


@styled()
def agreement_plot(history: list[dict[str, Any]]) -> Figure:
    """Draws the mean Dice between the models over the number of cases with a final label.

    Args:
        history: earlier and current results, each with `labelled` (number of cases) and `agreement` (mean Dice or None).
    """
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots()
    points = [(entry["labelled"], entry["agreement"]) for entry in history if entry["agreement"] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=colour(2))
    axes.set(xlabel="cases with a final label", ylabel="mean Dice between the models", ylim=(0, 1.02))
    return figure
