"""The figures of a report's summary: one line per main variant, and the best one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.results import Metric, Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.segmenters.registry import family_of

_SHOWN: tuple[Metric, ...] = ("dice", "nsd", "hd95_mm")


@dataclass(frozen=True)
class Line:
    """The summary of a variant.

    Attributes:
        variant: the variant.
        reads_truth: whether it reads the ground truth.
        cases: number of cases with at least one organ that counts.
        means: mean over cases and standard deviation between cases (NaN for one case) of the cases' means, by metric; metrics
            without a value are omitted.
        without_prompt: number of organs, over all cases, without a prompt; None if the variant makes no prompts.
        seconds: median time of a case in s; None if unknown.
        watt_hours: mean energy of a case in Wh; None if unknown.
        co2_grams: mean emissions of a case in g CO2e; None if unknown.
    """

    variant: Variant
    reads_truth: bool
    cases: int
    means: dict[Metric, tuple[float, float]]
    without_prompt: int | None
    seconds: float | None
    watt_hours: float | None
    co2_grams: float | None


def reads_truth(variant: Variant) -> bool:
    """Returns whether a variant reads the ground truth, as reference strategies do."""
    try:
        return family_of(variant.segmenter).role == "reference"
    except InputError:  # a segmenter that this version does not know, such as one of a plugin
        return False


def overview(results: Results) -> list[Line]:
    """Returns one line per main variant, in their order."""
    return [_line(results, variant) for variant in results.main]


def best_variant(results: Results) -> Variant | None:
    """Returns the main variant with the highest mean Dice that does not read the ground truth; None if there is none."""
    scored = [line for line in overview(results) if "dice" in line.means and not line.reads_truth]
    return max(scored, key=lambda line: line.means["dice"][0]).variant if scored else None


def _line(results: Results, variant: Variant) -> Line:
    records = list(results.of(variant).values())
    values = {metric: list(results.case_means(variant, metric).values()) for metric in _SHOWN}
    prompted = any(record.prompted for record in records)
    return Line(
        variant,
        reads_truth(variant),
        len(values["dice"]),
        {metric: (float(np.mean(found)), _deviation(found)) for metric, found in values.items() if found},
        sum(results.without_prompt(variant).values()) if prompted else None,
        _known(np.median, (record.total.seconds for record in records)),
        _known(np.mean, (record.total.watt_hours for record in records)),
        _known(np.mean, (record.total.co2_grams for record in records)),
    )


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _known(reduce: Callable[[list[float]], Any], values: Iterable[float | None]) -> float | None:
    """Returns the median or mean of the known values; None without one."""
    found = [value for value in values if value is not None]
    return float(reduce(found)) if found else None
