"""All records of an experiment, and the values that tables, tests and plots are made of.

Two rules for empty masks exist (`EmptyRule`):

| masks | `penalise` (default) | `monai` |
| --- | --- | --- |
| both empty | does not count | does not count |
| only the ground truth is empty | Dice 0, NSD 0, HD95 = diagonal of the image | Dice and HD95 do not count, NSD 0 |
| only the prediction is empty | Dice 0, NSD 0, HD95 = diagonal of the image | Dice 0, NSD 0, HD95 does not count |

`monai` is what the metrics of MONAI 1.6 return (`ignore_empty=True`), averaged without NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from medsam2_atlas.experiment.record import OrganResult, Record
from medsam2_atlas.experiment.variant import Variant

EmptyRule = Literal["penalise", "monai"]
"""How an organ counts whose mask is empty in the ground truth or in the prediction."""
EMPTY_RULES: tuple[EmptyRule, ...] = get_args(EmptyRule)

Metric = Literal["dice", "nsd", "hd95_mm", "volume_difference_ml", "centre_mm", "box_iou"]
"""A value per case and organ. The volume difference is prediction minus ground truth."""
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Results:
    """The records of an experiment.

    Attributes:
        records: one record per case and variant; cases may be missing for some variants.
        organs: organ numbers, in the order of the tables.
        problems: why a case, or a variant on a case, has no record, by name (`CASE`, or `CASE, VARIANT`).
        empty: rule for empty masks.
    """

    records: tuple[Record, ...]
    organs: tuple[int, ...]
    problems: Mapping[str, str] = field(default_factory=dict)
    empty: EmptyRule = "penalise"

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """All variants, in the order of the records."""
        return tuple(dict.fromkeys(record.variant for record in self.records))

    @property
    def main(self) -> tuple[Variant, ...]:
        """The variants of the main table: segmenters without changes."""
        return tuple(variant for variant in self.variants if variant.is_main)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """The names of all cases with a record, sorted."""
        return tuple(sorted({record.case for record in self.records}))

    @cached_property
    def _by_variant(self) -> dict[Variant, dict[str, Record]]:
        found: dict[Variant, dict[str, Record]] = {}
        for record in sorted(self.records, key=lambda record: record.case):
            found.setdefault(record.variant, {})[record.case] = record
        return found

    def of(self, variant: Variant) -> dict[str, Record]:
        """Returns the records of a variant, by case, sorted."""
        return dict(self._by_variant.get(variant, {}))

    def values(self, variant: Variant, metric: Metric, organ: int) -> dict[str, float]:
        """Returns the values of an organ that count, by case.

        Args:
            variant: the variant.
            metric: the value.
            organ: organ number.
        """
        found = {}
        for case, record in self.of(variant).items():
            result = record.organ(organ)
            value = None if result is None else value_of(result, metric, record.diagonal_mm, self.empty)
            if value is not None:
                found[case] = value
        return found

    def case_means(self, variant: Variant, metric: Metric) -> dict[str, float]:
        """Returns each case's mean over the organs that count, by case; a case without such organs is omitted."""
        by_case: dict[str, list[float]] = {}
        for organ in self.organs:
            for case, value in self.values(variant, metric, organ).items():
                by_case.setdefault(case, []).append(value)
        return {case: float(np.mean(values)) for case, values in sorted(by_case.items())}

    def organ_means(self, variant: Variant, metric: Metric) -> dict[int, float]:
        """Returns each organ's mean over the cases in which it counts, by organ number; organs without a value are omitted."""
        found = {organ: list(self.values(variant, metric, organ).values()) for organ in self.organs}
        return {organ: float(np.mean(values)) for organ, values in found.items() if values}

    def without_prompt(self, variant: Variant) -> dict[int, int]:
        """Returns the number of cases whose ground truth contains the organ but that got no prompt, by organ number."""
        found = dict.fromkeys(self.organs, 0)
        for record in self.of(variant).values():
            for result in record.organs if record.prompted else ():
                if result.truth_ml > 0 and result.prompt is None and result.organ in found:
                    found[result.organ] += 1
        return found


def value_of(result: OrganResult, metric: Metric, diagonal_mm: float, empty: EmptyRule) -> float | None:
    """Returns one value of an organ by a rule for empty masks; None if it does not count.

    Args:
        result: scores of the organ; at least one of both masks is not empty.
        metric: the value.
        diagonal_mm: diagonal of the image, in mm.
        empty: the rule; see the module.
    """
    if metric in ("centre_mm", "box_iou"):
        if result.prompt is None:
            return None
        return result.prompt.centre_mm if metric == "centre_mm" else result.prompt.box_iou
    if metric == "volume_difference_ml":
        return result.predicted_ml - result.truth_ml
    if metric == "nsd":
        return result.nsd
    if metric == "dice":
        return None if empty == "monai" and result.truth_ml == 0 else result.dice
    if result.hd95_mm is not None:
        return result.hd95_mm
    return None if empty == "monai" else diagonal_mm


def in_common(values: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns the cases that all mappings contain, sorted, for paired comparisons.

    >>> in_common([{"a": 1.0, "b": 0.5}, {"b": 0.7, "c": 0.1}])
    ['b']
    """
    return sorted(set.intersection(*(set(one) for one in values))) if values else []
