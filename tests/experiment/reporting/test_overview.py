"""The figures of a report's summary."""

from __future__ import annotations

import math

import pytest

from made_results import organ, record, results
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting.overview import best_variant, overview, reads_truth


def test_the_best_variant_does_not_read_the_ground_truth() -> None:
    names = {"reference-3": 0.95, "D": 0.8, "unet_3d": 0.7}
    records = tuple(record("a", Variant(segmenter=name), [organ(6, dice)]) for name, dice in names.items())
    assert best_variant(Results(records, (6,))) == Variant(segmenter="D")
    assert best_variant(Results(records[:1], (6,))) is None
    assert best_variant(Results((), (6,))) is None


def test_only_reference_strategies_read_the_ground_truth() -> None:
    assert reads_truth(Variant(segmenter="reference-1"))
    assert not reads_truth(Variant(segmenter="D"))
    assert not reads_truth(Variant(segmenter="unknown to this version"))


def test_a_line_contains_means_over_cases_and_known_costs() -> None:
    variant = Variant(segmenter="D")
    first = record("a", variant, [organ(4, 0.5), organ(6, 0.7)])
    second = record("b", variant, [organ(4, 0.9, centre_mm=None), organ(6, 0.9)])
    unknown = second.total.model_copy(update={"watt_hours": None, "seconds": 20.5})
    (line,) = overview(Results((first, second.model_copy(update={"total": unknown})), (4, 6)))
    assert line.cases == 2
    assert line.means["dice"] == (pytest.approx(0.75), pytest.approx(math.sqrt(0.045)))
    assert line.without_prompt == 1
    assert (line.seconds, line.watt_hours) == (16.5, 0.2)


def test_one_case_has_no_deviation_and_a_network_without_prompts_lacks_none() -> None:
    (line,) = overview(Results((record("a", Variant(segmenter="unet_3d"), [organ(6, 0.7)], prompted=False),), (6,)))
    assert math.isnan(line.means["dice"][1])
    assert line.without_prompt is None


def test_changed_variants_have_no_line() -> None:
    extra = Variant(segmenter="D", references=3)
    assert [line.variant.name for line in overview(results(("D",), cases=2, extra=[extra]))] == ["D"]
