"""Makes the tables of accuracy, arranged as the published one: one row per organ, one column per segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from medsam2_atlas.evaluation import evaluation_config
from medsam2_atlas.experiment.reporting.order import group_of, ordered
from medsam2_atlas.experiment.reporting.spread import DIGITS, Spread, number, shown
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table
from medsam2_atlas.experiment.results import EmptyRule, Metric, Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table

TITLES: dict[Metric, str] = {
    "dice": "Dice",
    "nsd": "Normalised surface distance (NSD)",
    "hd95_mm": "HD95, mm",
    "volume_difference_ml": "Volume of the prediction minus volume of the ground truth, ml",
    "centre_mm": "Centre error of the prompts, mm",
    "box_iou": "Box IoU: prompts and true boxes",
}
_PROMPTS = ("centre_mm", "box_iou")
_LOWER_IS_BETTER = ("hd95_mm", "centre_mm")
_PUBLISHED_DIGITS = 2
_ONE_EMPTY = "An organ in only one of prediction and ground truth counts as {}; an organ in neither does not count."
_RULES: dict[EmptyRule, dict[Metric, str]] = {
    "penalise": {
        "dice": _ONE_EMPTY.format("0"),
        "nsd": _ONE_EMPTY.format("0"),
        "hd95_mm": _ONE_EMPTY.format("the diagonal of the image"),
    },
    "monai": {
        "dice": "An organ that the prediction lacks counts as 0; an organ that the ground truth lacks does not count.",
        "nsd": _ONE_EMPTY.format("0"),
        "hd95_mm": "An organ counts only if prediction and ground truth contain it.",
    },
}
"""What the rules for empty masks mean for each metric; see `results`."""


class PublishedDice(Protocol):
    """Published Dice: a mean and its deviation (None if not published), or None without a figure."""

    def dice(self, segmenter: str, organ: int) -> tuple[float, float | None] | None:
        """Returns the Dice of an organ over the cases."""

    def mean(self, segmenter: str) -> tuple[float, float | None] | None:
        """Returns the mean over the organs, with the deviation between organs."""


def accuracy_table(results: Results, metric: Metric, published: PublishedDice | None = None) -> Table:
    """Returns the table of a metric: one row per organ, one column per main variant, and published Dice beside them.

    Variants without prompts are omitted from the tables of prompt errors. The best value of a group in a row is marked; if
    several values are equal as printed, all of them are.

    Args:
        results: the records.
        metric: the value.
        published: published Dice; None or another metric than Dice: no published columns.
    """
    variants = [v for v in ordered(results.main) if metric not in _PROMPTS or _has_prompts(results, v)]
    figures = published if metric == "dice" else None
    columns: list[Column] = []
    for variant in variants:
        group = group_of(variant.segmenter)
        columns.append(Column(variant.name, group))
        if figures is not None and figures.mean(variant.segmenter) is not None:
            columns.append(Column(f"{variant.name}, published", group, published=True))
    rows = []
    organs = organ_table()
    for organ in results.organs:
        values = {v: Spread.of(results.values(v, metric, organ).values()) for v in variants}
        others = {v.name: figures.dice(v.segmenter, organ) for v in variants} if figures is not None else {}
        rows.append(_row(organs[organ].display, values, others, columns, metric))
    over_organs = {v: Spread.of(results.organ_means(v, metric).values()) for v in variants}
    others = {v.name: figures.mean(v.segmenter) for v in variants} if figures is not None else {}
    rows.append(_row("Mean over organs", over_organs, others, columns, metric, summary=True))
    over_cases = {v: Spread.of(results.case_means(v, metric).values()) for v in variants}
    rows.append(_row("Mean over cases", over_cases, {}, columns, metric, summary=True))
    rows.append(_counts("Cases", {v.name: len(results.of(v)) for v in variants}, columns))
    if any(_has_prompts(results, v) for v in variants):
        missing = {v.name: sum(results.without_prompt(v).values()) for v in variants if _has_prompts(results, v)}
        rows.append(_counts("Organs without a prompt", missing, columns))
    caption = _caption(results, metric, published=any(column.published for column in columns))
    return Table(TITLES[metric], caption, "Organ", tuple(columns), tuple(rows), _notes(results, metric, variants))


def _has_prompts(results: Results, variant: Variant) -> bool:
    return any(record.prompted for record in results.of(variant).values())


def _row(
    title: str,
    values: dict[Variant, Spread | None],
    published: dict[str, tuple[float, float | None] | None],
    columns: Sequence[Column],
    metric: Metric,
    *,
    summary: bool = False,
) -> Row:
    """Returns a row of means and deviations, in which the best values of each group are marked."""
    own = {variant.name: _cell(spread, DIGITS[metric]) for variant, spread in values.items()}
    others = {f"{name}, published": _published_cell(figure) for name, figure in published.items()}
    cells = [others.get(column.title, Cell()) if column.published else own[column.title] for column in columns]
    return Row(title, tuple(_marked(cells, columns, metric)), summary)


def _cell(spread: Spread | None, digits: int) -> Cell:
    return Cell() if spread is None else Cell(shown(spread.mean, spread.deviation, digits), spread.mean)


def _published_cell(figure: tuple[float, float | None] | None) -> Cell:
    return Cell() if figure is None else Cell(shown(*figure, _PUBLISHED_DIGITS), figure[0])


def _marked(cells: Sequence[Cell], columns: Sequence[Column], metric: Metric) -> list[Cell]:
    """Returns the cells, with the best of each group marked, if the group has at least two values of this evaluation."""
    found = list(cells)
    for group in {column.group for column in columns}:
        goodness = {
            place: _goodness(cell.value, metric)
            for place, (cell, column) in enumerate(zip(cells, columns, strict=True))
            if column.group == group and not column.published and cell.value is not None
        }
        for place, value in goodness.items():
            if len(goodness) > 1 and value == max(goodness.values()):
                found[place] = replace(found[place], best=True)
    return found


def _goodness(value: float, metric: Metric) -> float:
    """Returns a number that is larger for better values, and equal for values that are equal as printed."""
    printed = round(value, DIGITS[metric])
    if metric == "volume_difference_ml":
        return -abs(printed)
    return -printed if metric in _LOWER_IS_BETTER else printed


def _counts(title: str, numbers: dict[str, int], columns: Sequence[Column]) -> Row:
    cells = []
    for column in columns:
        count = None if column.published else numbers.get(column.title)
        cells.append(Cell() if count is None else Cell(number(count, 0), count))
    return Row(title, tuple(cells), summary=True)


def _caption(results: Results, metric: Metric, *, published: bool) -> str:
    parts = [f"Mean ± standard deviation over the cases. {_cases(len(results.cases))}."]
    parts += [rule] if (rule := _RULES[results.empty].get(metric)) else []
    if metric == "nsd":
        parts.append(f"Tolerance: {evaluation_config().nsd_tolerance_mm:g} mm.")
    if metric in _PROMPTS:
        parts.append("An organ counts if the ground truth contains it and it got a prompt.")
    parts.append("Mean over organs: ± deviation between organs. Bold: the best of a group of columns.")
    if published:
        parts.append("Columns titled published: figures of the published experiment, on its own cases.")
    return " ".join(parts)


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"


def _notes(results: Results, metric: Metric, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Returns a note with the organs that do not count in all cases of a variant; no note without such organs."""
    found = []
    for organ in results.organs:
        counts = {v.name: len(results.values(v, metric, organ)) for v in variants}
        fewer = {name: count for (name, count), v in zip(counts.items(), variants, strict=True) if count < len(results.of(v))}
        if fewer and len(fewer) == len(variants) and len(set(fewer.values())) == 1:
            found.append(f"{organ_table()[organ].display} {next(iter(fewer.values()))}")
        elif fewer:
            listed = "; ".join(f"{name} {count}" for name, count in fewer.items())
            found.append(f"{organ_table()[organ].display} ({listed})")
    return (f"Organs that do not count in all cases, with the number of cases: {', '.join(found)}.",) if found else ()
