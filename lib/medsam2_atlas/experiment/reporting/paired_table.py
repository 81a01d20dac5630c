"""Makes the table of paired comparisons and the table of intervals."""

from __future__ import annotations

from collections.abc import Sequence

from medsam2_atlas.experiment.reporting.accuracy import TITLES
from medsam2_atlas.experiment.reporting.order import group_of
from medsam2_atlas.experiment.reporting.spread import DIGITS, number, shown
from medsam2_atlas.experiment.reporting.statistics import LEVEL, Estimate, Interval, PairedTest, smallest_p
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table
from medsam2_atlas.experiment.results import Metric

_SIGNIFICANT = 0.05
_INTERVAL = f"{100 * LEVEL:.0f} % interval"


def paired_table(tests: Sequence[PairedTest], metric: Metric) -> Table:
    """Returns the table of all paired comparisons of a metric; corrected p-values below 0.05 are marked.

    Args:
        tests: result of `paired_tests`.
        metric: the value that was compared.
    """
    titles = ("cases", "mean difference", _INTERVAL, "p", "p, corrected", "remark")
    rows = tuple(_pair(test, DIGITS[metric]) for test in tests)
    caption = (
        "Each pair over the cases that both have; a case's value is its mean over the organs. Wilcoxon signed-rank test, "
        "two-sided; Holm's correction over all tests of the table. Interval of the mean difference: bootstrap over cases."
    )
    least = smallest_p(tests)
    notes: tuple[str, ...] = ()
    if least is not None and least >= _SIGNIFICANT:
        tested = sum(test.p is not None for test in tests)
        notes = (
            f"With {tested} test{'' if tested == 1 else 's'} and so few cases, "
            f"no corrected p-value can be below {number(least, 3)}. "
            "A large p-value does not show that two segmenters are equal.",
        )
    return Table(f"{TITLES[metric]}: paired comparisons", caption, "Pair", tuple(map(Column, titles)), rows, notes)


def interval_table(estimates: Sequence[Estimate], metric: Metric) -> Table:
    """Returns the table of the mean of each variant over its cases, with the interval of the mean.

    Args:
        estimates: result of `estimates`.
        metric: the value.
    """
    digits = DIGITS[metric]
    rows = tuple(
        Row(
            found.variant.name,
            (
                Cell(group_of(found.variant.segmenter)),
                Cell(str(found.spread.count), found.spread.count),
                Cell(shown(found.spread.mean, found.spread.deviation, digits), found.spread.mean),
                _ends(found.interval, digits),
            ),
        )
        for found in estimates
    )
    titles = ("group", "cases", "mean ± deviation", _INTERVAL)
    caption = (
        "A case's value is its mean over the organs. Mean and standard deviation over the cases; "
        "interval of the mean: bootstrap over cases."
    )
    return Table(f"{TITLES[metric]}: mean over cases", caption, "Segmenter", tuple(map(Column, titles)), rows)


def _pair(test: PairedTest, digits: int) -> Row:
    difference = Cell() if test.difference is None else Cell(_signed(test.difference, digits), test.difference)
    significant = test.p_holm is not None and test.p_holm < _SIGNIFICANT
    corrected = Cell() if test.p_holm is None else Cell(_p(test.p_holm), test.p_holm, best=significant)
    cells = (
        Cell(str(test.cases), test.cases),
        difference,
        _ends(test.interval, digits),
        Cell() if test.p is None else Cell(_p(test.p), test.p),
        corrected,
        Cell(test.remark),
    )
    return Row(f"{test.first.name} − {test.second.name}", cells)


def _ends(interval: Interval | None, digits: int) -> Cell:
    if interval is None:
        return Cell()
    return Cell(f"{number(interval.low, digits)} to {number(interval.high, digits)}", interval.low)


def _signed(value: float, digits: int) -> str:
    text = number(value, digits)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 3)
