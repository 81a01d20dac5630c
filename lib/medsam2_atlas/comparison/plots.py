"""Draws the plots of a comparison."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from medsam2_atlas.comparison.studies import Comparison
from medsam2_atlas.imaging.labels import organ_table

COLOURS = ("#2b6cb0", "#c05621", "#2f855a")


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
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    handles = []
    for n, (name, values) in enumerate(series):
        drawn = [k for k in table.indices if values.get(k)]
        places = [k + (n - (len(series) - 1) / 2) * width for k in drawn]
        boxes = axes.boxplot(
            [values[k] for k in drawn],
            positions=places,
            widths=0.85 * width,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black"},
            flierprops={"markersize": 3},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(COLOURS[n])
            box.set_alpha(0.75)
        if boxes["boxes"]:
            handles.append((boxes["boxes"][0], name))
    axes.set_xticks(table.indices, [o.display for o in table.organs], rotation=40, ha="right")
    axes.set(ylabel="Dice", ylim=(0, 1.02), xlim=(0.4, max(table.indices) + 0.6))
    axes.legend(*zip(*handles, strict=True), loc="lower left", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    return figure


def agreement_plot(history: list[dict[str, Any]]) -> Figure:
    """Draws the mean Dice between the models over the number of cases with a final label.

    Args:
        history: earlier and current results, each with `labelled` (number of cases) and `agreement` (mean Dice or None).
    """
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    points = [(entry["labelled"], entry["agreement"]) for entry in history if entry["agreement"] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[2])
    axes.set(xlabel="cases with a final label", ylabel="mean Dice between the models", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return figure


def png(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
