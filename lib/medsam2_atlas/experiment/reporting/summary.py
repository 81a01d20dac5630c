"""Writes `summary.json`, the accuracy of an experiment with its tests, and `costs.json`, its costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.printable import printable
from medsam2_atlas.evaluation import evaluation_config
from medsam2_atlas.experiment.reporting.cost_table import median_costs
from medsam2_atlas.experiment.reporting.order import group_of, ordered
from medsam2_atlas.experiment.reporting.spread import Spread
from medsam2_atlas.experiment.reporting.statistics import LEVEL, PairedTest, estimates, paired_tests
from medsam2_atlas.experiment.results import METRICS, Metric, Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table

TESTED: tuple[Metric, ...] = ("dice", "nsd")
"""The metrics with intervals and tests."""
_DIGITS = 6


def write_summary(results: Results, file: Path, *, seed: int = 0) -> None:
    """Writes `summary` as JSON.

    Raises:
        StorageError: if the folder does not exist.
    """
    write_json(summary(results, seed=seed), file)


def write_cost_summary(results: Results, file: Path) -> None:
    """Writes `cost_summary` as JSON.

    Raises:
        StorageError: if the folder does not exist.
    """
    write_json(cost_summary(results), file)


def summary(results: Results, *, seed: int = 0) -> dict[str, Any]:
    """Returns the accuracy of an experiment as JSON values: rules, means, intervals, tests and problems.

    It contains no times, and equal records give equal values, whatever their order. Numbers have 6 decimal places.

    Args:
        results: the records.
        seed: seed of the bootstrap.
    """
    return {
        "cases": [printable(case) for case in results.cases],
        "organs": [organ_table()[organ].name for organ in results.organs],
        "empty_masks": results.empty,
        "nsd_tolerance_mm": evaluation_config().nsd_tolerance_mm,
        "confidence_level": LEVEL,
        "seed": seed,
        "variants": _variants(results, seed),
        "tests": {metric: [_test(test) for test in paired_tests(results, metric, seed=seed)] for metric in TESTED},
        "problems": {printable(name): printable(problem) for name, problem in sorted(results.problems.items())},
    }


def cost_summary(results: Results) -> dict[str, Any]:
    """Returns the costs per case as JSON values, by variant and stage; see `median_costs`."""
    return {
        variant.name: {
            "energy_how": sorted({record.energy_how for record in results.of(variant).values()}),
            "stages": _rounded(median_costs(results, variant)),
        }
        for variant in ordered(results.variants)
    }


def _variants(results: Results, seed: int) -> list[dict[str, Any]]:
    intervals = {
        (found.variant, metric): None if found.interval is None else asdict(found.interval)
        for metric in TESTED
        for found in estimates(results, metric, seed=seed)
    }
    return [
        {
            "name": variant.name,
            **variant.model_dump(),
            "group": group_of(variant.segmenter),
            "cases": len(results.of(variant)),
            "organs_without_prompt": {
                organ_table()[organ].name: count for organ, count in results.without_prompt(variant).items() if count
            },
            "metrics": {
                metric: _rounded(_means(results, variant, metric) | {"interval": intervals.get((variant, metric))})
                for metric in METRICS
            },
        }
        for variant in ordered(results.variants)
    ]


def _means(results: Results, variant: Variant, metric: Metric) -> dict[str, Any]:
    """Returns the means of a metric: over organs, over cases, and of each organ."""
    organs = {organ: Spread.of(results.values(variant, metric, organ).values()) for organ in results.organs}
    return {
        "over_organs": _spread(Spread.of(results.organ_means(variant, metric).values())),
        "over_cases": _spread(Spread.of(results.case_means(variant, metric).values())),
        "organs": {organ_table()[organ].name: _spread(spread) for organ, spread in organs.items() if spread is not None},
    }


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else asdict(spread)


def _test(test: PairedTest) -> dict[str, Any]:
    values = {name: value for name, value in vars(test).items() if name not in ("first", "second", "metric", "interval")}
    interval = None if test.interval is None else asdict(test.interval)
    return _rounded({"first": test.first.name, "second": test.second.name, **values, "interval": interval})


def _rounded(value: Any) -> Any:
    """Returns JSON values with rounded numbers; −0 becomes 0."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, _DIGITS) + 0.0 if isinstance(value, float) else value
