"""Plots of cost: seconds per stage, and the number of cases from which a trained network costs less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from medsam2_atlas.evaluation import break_even
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.pages import INK, MUTED, colour, styled

OTHER = "other"
"""Time outside all stages."""
_DEFAULT_CASES = 1000


def stage_seconds(results: Results, variant: Variant) -> dict[str, float]:
    """Returns the mean seconds of each stage, in the order of the records; time outside all stages is `other`.

    Records without a total time do not count. A stage that a case lacks took 0 s.

    Args:
        results: the experiment.
        variant: the variant.
    """
    timed = [record for record in results.of(variant).values() if record.total.seconds is not None]
    sums: dict[str, float] = {}
    for record in timed:
        stages = {name: cost.seconds for name, cost in record.stages.items() if cost.seconds is not None}
        rest = (record.total.seconds or 0) - sum(stages.values())
        for name, seconds in [*stages.items(), *([(OTHER, rest)] if rest > 0 else [])]:
            sums[name] = sums.get(name, 0) + seconds
    return {name: seconds / len(timed) for name, seconds in sums.items()}


@styled()
def seconds_plot(results: Results) -> Figure | None:
    """Draws the mean seconds per case, as one bar per main variant, divided into stages.

    Returns:
        The figure; None if no time is known.
    """
    bars = {variant.name: found for variant in results.main if (found := stage_seconds(results, variant))}
    if not bars:
        return None
    longest = sorted(bars.values(), key=len, reverse=True)  # most complete first: its order is that of the run
    stages = list(dict.fromkeys(name for found in longest for name in found if name != OTHER))
    stages += [OTHER] if any(OTHER in found for found in bars.values()) else []
    figure = Figure(figsize=(11, 1.3 + 0.42 * len(bars)))
    axes = figure.subplots()
    left = np.zeros(len(bars))
    for number, stage in enumerate(stages):
        widths = np.array([found.get(stage, 0.0) for found in bars.values()])
        fill = MUTED if stage == OTHER else colour(number)
        axes.barh(range(len(bars)), widths, left=left, height=0.66, color=fill, label=stage, edgecolor="none")
        left += widths
    for place, total in enumerate(left):
        axes.text(total, place, f"  {total:.1f} s", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set(xlabel="mean time of a case (s)", xlim=(0, 1.1 * max(left.max(), 1e-9)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=min(6, len(stages)))
    return figure


@dataclass(frozen=True)
class CostLine:
    """The cumulated cost of a segmenter.

    Attributes:
        name: name in the legend.
        training: cost of the training; 0 without training.
        per_case: cost of each case.
    """

    name: str
    training: float
    per_case: float

    def at(self, cases: float) -> float:
        """Returns the cost after a number of cases."""
        return self.training + cases * self.per_case


@dataclass(frozen=True)
class CostPanel:
    """Lines with a common source, such as this evaluation or a publication.

    Attributes:
        title: title of the panel.
        unit: unit of all costs, such as `g CO₂e` or `Wh`.
        lines: the segmenters; those without training are compared with those that were trained.
    """

    title: str
    unit: str
    lines: tuple[CostLine, ...]

    @property
    def crossings(self) -> list[tuple[CostLine, CostLine, float]]:
        """Segmenter without training, trained segmenter, and the number of cases from which the trained one costs less."""
        plain = [line for line in self.lines if line.training == 0]
        trained = [line for line in self.lines if line.training > 0]
        pairs = product(plain, trained)
        cases = ((a, b, break_even(b.training, a.per_case, b.per_case)) for a, b in pairs)
        return [(a, b, number) for a, b, number in cases if number is not None]


@styled()
def break_even_plot(panels: Sequence[CostPanel]) -> Figure:
    """Draws cumulated costs over the number of cases, and the points from which a trained network costs less.

    Args:
        panels: one panel per source, side by side, because their costs may differ by orders of magnitude; at least one.
    """
    figure = Figure(figsize=(11 if len(panels) > 1 else 7, 3.8))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        end = 1.5 * max((cases for *_, cases in panel.crossings), default=_DEFAULT_CASES / 1.5)
        for number, line in enumerate(panel.lines):
            dash = "--" if line.training else "-"
            axes.plot([0, end], [line.at(0), line.at(end)], dash, color=colour(number), label=line.name)
        for number, (plain, _, cases) in enumerate(panel.crossings):
            axes.plot(cases, plain.at(cases), "o", color=INK, markersize=5)
            place, side = ((-4, 8), "right") if number % 2 == 0 else ((6, -14), "left")  # neighbours do not overlap
            note = f"{cases:.0f} cases"
            axes.annotate(note, (cases, plain.at(cases)), place, textcoords="offset points", ha=side, fontsize=8.5)
        axes.set(title=panel.title, xlabel="number of cases", ylabel=f"cumulated cost ({panel.unit})", xlim=(0, end))
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    return figure
