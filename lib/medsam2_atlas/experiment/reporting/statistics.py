"""Paired comparisons of segmenters over cases, and confidence intervals, with SciPy.

The unit is the case, because organs of one case are not independent. A case's value is its mean over the organs that count.

**Test.** Wilcoxon signed-rank, two-sided, for each pair of main variants over the cases that both have. Differences of zero are
ranked and then dropped (Pratt 1959), so they still affect the ranks of the others. Differences are rounded to 9 decimal places,
so that rounding errors do not hide ties. The p-value is exact up to 50 cases without ties and zeros, and up to 13 cases with
them (all assignments of signs). Otherwise it is the normal approximation with a correction for ties.

**Several pairs.** Holm's correction (1979) over all tested pairs of a metric bounds the probability of any false finding.

**Intervals.** Bootstrap over cases at 95 %, bias-corrected and accelerated (BCa, Efron 1987); the percentile interval if BCa is
undefined. Each interval has a new generator with the same seed, so it does not depend on which other segmenters were run.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from medsam2_atlas.experiment.reporting.order import ordered
from medsam2_atlas.experiment.reporting.spread import Spread
from medsam2_atlas.experiment.results import Metric, Results, in_common
from medsam2_atlas.experiment.variant import Variant

LEVEL = 0.95
"""Confidence level of the intervals."""
MIN_PAIRS = 6
"""With 5 pairs, the smallest two-sided p is 2/2⁵ = 0.0625; with 6, it is 0.03125."""
_RESAMPLES = 9_999
_EXACT, _ALL_SIGNS = 50, 13
"""Largest numbers of cases for the exact distribution and for all assignments of signs (2¹³ = 8192)."""
_DECIMALS = 9

Method = Literal["exact", "all signs", "normal approximation"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        how: `BCa`, `percentile` (BCa was undefined), or `equal values` (all values are equal, so it has no width).
    """

    low: float
    high: float
    how: Literal["BCa", "percentile", "equal values"]


@dataclass(frozen=True)
class Estimate:
    """The mean of a variant over its cases.

    Attributes:
        variant: the variant.
        metric: the value.
        spread: mean and deviation over the cases.
        interval: interval of the mean; None with one case.
    """

    variant: Variant
    metric: Metric
    spread: Spread
    interval: Interval | None


@dataclass(frozen=True)
class PairedTest:
    """The comparison of two variants over the cases that both have.

    Attributes:
        first: the first variant.
        second: the second variant.
        metric: the value.
        cases: number of cases in common.
        difference: mean of first minus second; None without cases.
        interval: interval of the difference; None with fewer than two cases.
        p: p-value of the pair alone; None if it was not tested.
        p_holm: p-value after Holm's correction.
        method: how the p-value was computed.
        remark: why the pair was not tested.
    """

    first: Variant
    second: Variant
    metric: Metric
    cases: int
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    method: Method | None = None
    remark: str = ""


def estimates(results: Results, metric: Metric, *, seed: int = 0) -> list[Estimate]:
    """Returns the mean of each variant over its cases, in the order of the tables; variants without a value are omitted.

    Args:
        results: the records.
        metric: the value.
        seed: seed of the bootstrap.
    """
    found = []
    for variant in ordered(results.variants):
        values = list(results.case_means(variant, metric).values())
        spread = Spread.of(values)
        if spread is not None:
            found.append(Estimate(variant, metric, spread, interval(values, np.random.default_rng(seed))))
    return found


def paired_tests(results: Results, metric: Metric, *, seed: int = 0) -> list[PairedTest]:
    """Compares every pair of main variants over the cases that both have; pairs are in the order of the tables.

    Args:
        results: the records.
        metric: the value.
        seed: seed of the bootstrap.
    """
    means = {variant: results.case_means(variant, metric) for variant in ordered(results.main)}
    tests = []
    for (first, ours), (second, theirs) in combinations(means.items(), 2):
        cases = in_common([ours, theirs])
        differences = np.round([ours[case] - theirs[case] for case in cases], _DECIMALS)
        tests.append(_tested(PairedTest(first, second, metric, len(cases)), differences, np.random.default_rng(seed)))
    corrected = iter(holm([test.p for test in tests if test.p is not None]))
    return [test if test.p is None else replace(test, p_holm=next(corrected)) for test in tests]


def wilcoxon(differences: np.ndarray) -> tuple[float, Method]:
    """Returns the two-sided p-value of the signed-rank test, and how it was computed; see the module.

    Args:
        differences: differences of n pairs, `[n]`, not all of them zero.
    """
    from scipy import stats

    magnitudes = np.abs(differences)
    distinct = len(np.unique(magnitudes)) == len(magnitudes) and magnitudes.all()
    options: dict[str, object]
    if distinct and len(differences) <= _EXACT:
        how: Method = "exact"
        options = {"method": "exact"}
    elif len(differences) <= _ALL_SIGNS:
        how = "all signs"
        options = {"method": stats.PermutationMethod(n_resamples=np.inf)}
    else:
        how = "normal approximation"
        options = {"method": "asymptotic"}
    return float(stats.wilcoxon(differences, zero_method="pratt", **options).pvalue), how


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values after Holm's correction, in the given order.

    The smallest of n values is multiplied by n, the next by n − 1, and so on; a value is never below that of a smaller p-value.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    corrected, least = list(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda n: values[n])):
        least = max(least, min(1.0, values[place] * (len(values) - rank)))
        corrected[place] = least
    return corrected


def interval(values: Sequence[float] | np.ndarray, random: np.random.Generator) -> Interval | None:
    """Returns the bootstrap interval of the mean of some values; None with fewer than two values.

    Args:
        values: n values, a sequence or an array `[n]`.
        random: generator of the resamples.
    """
    from scipy import stats

    data = np.round(np.asarray(values, float), _DECIMALS)
    if len(data) < 2:
        return None
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]), "equal values")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():  # SciPy warns if BCa is undefined; its ends are then not finite
            warnings.simplefilter("ignore")
            ends = stats.bootstrap(
                (data,), np.mean, confidence_level=LEVEL, n_resamples=_RESAMPLES, method=method, batch=500, rng=random
            ).confidence_interval
        if np.isfinite([ends.low, ends.high]).all():
            return Interval(float(ends.low), float(ends.high), "BCa" if method == "BCa" else "percentile")
    raise ValueError("values must be finite")


def smallest_p(tests: Sequence[PairedTest]) -> float | None:
    """Returns the smallest corrected p-value that the numbers of cases allow; None if nothing was tested.

    The smallest p of n pairs is 2/2ⁿ, and Holm's correction multiplies the smallest p-value by the number of tests.

    Args:
        tests: all tests of one metric.
    """
    tested = [test for test in tests if test.p is not None]
    return min(1.0, len(tested) * 2.0 ** (1 - max(test.cases for test in tested))) if tested else None


def _tested(test: PairedTest, differences: np.ndarray, random: np.random.Generator) -> PairedTest:
    """Returns a test with difference, interval and p-value, or with the reason why there is none."""
    if not len(differences):
        return replace(test, remark="no cases in common")
    ends = interval(differences, random)
    known = replace(test, difference=float(np.mean(differences)), interval=ends)
    differing = int(np.count_nonzero(differences))
    if differing == 0:
        return replace(known, remark="all values are equal")
    if differing < MIN_PAIRS:
        what = "cases" if len(differences) < MIN_PAIRS else "cases that differ"
        return replace(known, remark=f"too few {what}: p < 0.05 needs at least {MIN_PAIRS}")
    p, how = wilcoxon(differences)
    return replace(known, p=p, method=how)
