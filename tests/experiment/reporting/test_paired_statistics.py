"""Paired tests, Holm's correction and bootstrap intervals, compared with SciPy and with values computed by hand."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from made_results import organ, record, results
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting.statistics import estimates, holm, interval, paired_tests, smallest_p, wilcoxon


def made(dice: dict[str, list[float]]) -> Results:
    """Returns results in which each case of a segmenter has one organ with the given Dice."""
    records = [
        record(f"case_{n:02d}", Variant(segmenter=name), [organ(1, value)])
        for name, values in dice.items()
        for n, value in enumerate(values)
    ]
    return Results(tuple(records), (1,))


def all_signs(differences: list[float]) -> float:
    """Returns the two-sided p of Pratt's signed-rank test by counting all assignments of signs."""
    d = np.array(differences)
    ranks = stats.rankdata(np.abs(d))[d != 0]
    positive = (d > 0)[d != 0]

    def smaller_sum(up: np.ndarray) -> float:
        return min(ranks[up].sum(), ranks[~up].sum())

    observed = smaller_sum(positive)
    extreme = [smaller_sum(np.array(signs)) <= observed + 1e-9 for signs in product([False, True], repeat=len(ranks))]
    return float(np.mean(extreme))


@pytest.mark.parametrize(
    ("differences", "how"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05, 0.06], "exact"),
        ([-0.01, 0.02, 0.03, -0.04, 0.05, 0.06, 0.07], "exact"),
        ([0.1, 0.1, -0.2, 0.3, 0.0, 0.5, 0.6, 0.7], "all signs"),
        ([0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.1, -0.1, 0.2], "all signs"),
    ],
)
def test_the_p_value_of_few_cases_equals_a_count_over_all_assignments_of_signs(differences: list[float], how: str) -> None:
    p, method = wilcoxon(np.array(differences))
    assert (method, p) == (how, pytest.approx(all_signs(differences)))


def test_six_cases_with_differences_of_one_sign_give_two_of_64_assignments() -> None:
    (test,) = paired_tests(made({"A": [0.5] * 6, "B": [0.51, 0.52, 0.53, 0.54, 0.55, 0.56]}), "dice")
    assert (test.first.name, test.second.name, test.cases, test.method) == ("A", "B", 6, "exact")
    assert test.p == test.p_holm == 2 / 64
    assert test.difference == pytest.approx(-0.035)


def test_many_cases_with_ties_use_the_normal_approximation_of_scipy() -> None:
    differences = np.round(np.random.default_rng(3).normal(0.01, 0.05, 40), 2)
    p, method = wilcoxon(differences)
    assert method == "normal approximation"
    assert p == stats.wilcoxon(differences, zero_method="pratt", method="asymptotic").pvalue


def test_rounding_errors_do_not_hide_ties() -> None:
    # 0.3 − 0.2 and 0.8 − 0.7 differ in the last bits.
    (test,) = paired_tests(made({"A": [0.3, 0.8, 0.9, 0.6, 0.7, 0.8], "B": [0.2, 0.7, 0.6, 0.4, 0.3, 0.3]}), "dice")
    assert test.method == "all signs"


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_keeps_the_order() -> None:
    # Sorted: .01·4 = .04; .02·3 = .06; .03·2 = .06; .5·1 = .5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # .02·2 = .04 exceeds .03·1, so the larger p gets .04 too.
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_each_pair_of_main_variants_is_tested_and_corrected_together() -> None:
    found = results(("unet_3d", "B", "D"), cases=8, extra=[Variant(segmenter="D", references=1)])
    tests = paired_tests(found, "nsd")
    assert [(t.first.name, t.second.name) for t in tests] == [("unet_3d", "B"), ("unet_3d", "D"), ("B", "D")]
    assert [t.p_holm for t in tests] == pytest.approx(holm([t.p for t in tests if t.p is not None]))
    means = [found.case_means(t, "nsd") for t in found.main]
    expected = [means[1][case] - means[2][case] for case in found.cases]
    assert tests[2].p == pytest.approx(stats.wilcoxon(expected).pvalue)


def test_pairs_use_the_cases_that_both_variants_have() -> None:
    found = results(("B", "D"), cases=8)
    fewer = Results(tuple(r for r in found.records if (r.case, r.variant.segmenter) != ("case_03", "D")), found.organs)
    (test,) = paired_tests(fewer, "dice")
    assert test.cases == 7


@pytest.mark.parametrize(
    ("first", "second", "remark"),
    [
        ([0.5] * 5, [0.6, 0.7, 0.8, 0.9, 0.95], "too few cases: p < 0.05 needs at least 6"),
        ([0.5] * 7, [0.5, 0.5, 0.51, 0.52, 0.53, 0.54, 0.55], "too few cases that differ: p < 0.05 needs at least 6"),
        ([0.5] * 7, [0.5] * 7, "all values are equal"),
        ([0.5], [0.6], "too few cases: p < 0.05 needs at least 6"),
    ],
)
def test_a_pair_that_cannot_be_significant_gets_a_remark_and_no_p(first: list[float], second: list[float], remark: str) -> None:
    (test,) = paired_tests(made({"A": first, "B": second}), "dice")
    assert (test.p, test.p_holm, test.method, test.remark) == (None, None, None, remark)
    assert test.difference == pytest.approx(np.mean(np.subtract(first, second)))


def test_variants_without_cases_in_common_are_listed_without_a_difference() -> None:
    one = record("a", Variant(segmenter="A"), [organ(1, 0.5)])
    other = record("b", Variant(segmenter="B"), [organ(1, 0.6)])
    (test,) = paired_tests(Results((one, other), (1,)), "dice")
    assert (test.cases, test.difference, test.interval, test.remark) == (0, None, None, "no cases in common")


def test_untested_pairs_do_not_count_in_the_correction() -> None:
    dice = {"A": [0.5] * 6, "B": [0.5] * 6, "C": [0.51, 0.52, 0.53, 0.54, 0.55, 0.56]}
    tests = paired_tests(made(dice), "dice")
    assert [t.p for t in tests] == [None, 2 / 64, 2 / 64]
    assert [t.p_holm for t in tests] == [None, 4 / 64, 4 / 64]


def test_the_smallest_corrected_p_depends_on_cases_and_tests() -> None:
    tests = paired_tests(results(("A", "B", "C"), cases=6), "dice")
    tested = sum(t.p is not None for t in tests)
    assert tested == 3
    assert smallest_p(tests) == 3 * 2 / 64
    assert smallest_p([]) is None


def test_the_interval_is_bca_of_scipy_and_depends_on_the_seed_only() -> None:
    values = np.random.default_rng(5).beta(8, 2, 20)
    found = interval(values, np.random.default_rng(1))
    expected = stats.bootstrap((np.round(values, 9),), np.mean, rng=np.random.default_rng(1), batch=500).confidence_interval
    assert found is not None
    assert (found.low, found.high, found.how) == (expected.low, expected.high, "BCa")
    assert found == interval(values, np.random.default_rng(1)) != interval(values, np.random.default_rng(2))
    assert found.low < values.mean() < found.high


def test_equal_values_give_an_interval_without_width_and_one_value_gives_none() -> None:
    found = interval([0.7, 0.7, 0.7], np.random.default_rng(0))
    assert found is not None
    assert (found.low, found.high, found.how) == (0.7, 0.7, "equal values")
    assert interval([0.7], np.random.default_rng(0)) is None


def test_the_percentile_interval_replaces_an_undefined_bca(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stats.bootstrap
    undefined = SimpleNamespace(confidence_interval=SimpleNamespace(low=np.nan, high=np.nan))
    monkeypatch.setattr(stats, "bootstrap", lambda *a, **k: undefined if k["method"] == "BCa" else real(*a, **k))
    found = interval([0.1, 0.5, 0.7, 0.9], np.random.default_rng(0))
    assert found is not None
    assert found.how == "percentile"
    assert 0.1 <= found.low < found.high <= 0.9


def test_estimates_have_mean_and_interval_of_each_variant_that_do_not_depend_on_the_others() -> None:
    found = results(("B", "D"), cases=8)
    both = {e.variant.name: e for e in estimates(found, "dice")}
    alone = Results(tuple(r for r in found.records if r.variant.segmenter == "D"), found.organs)
    assert [both["D"]] == estimates(alone, "dice")
    assert both["D"].spread.mean == pytest.approx(np.mean(list(found.case_means(Variant(segmenter="D"), "dice").values())))
    assert both["D"].interval is not None
    assert both["D"].interval.low < both["D"].spread.mean < both["D"].interval.high
