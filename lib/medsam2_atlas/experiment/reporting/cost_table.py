"""Makes the table of costs: time, memory, energy and emissions per case, for each stage of each segmenter."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from medsam2_atlas.experiment.record import Cost, Record
from medsam2_atlas.experiment.reporting.order import ordered
from medsam2_atlas.experiment.reporting.spread import number
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant

TOTAL = "total"
"""Name of the whole case among the stages."""

_COLUMNS: tuple[tuple[str, str, Callable[[list[float]], float], int], ...] = (
    ("seconds", "seconds", lambda values: float(np.median(values)), 1),
    ("peak_mib", "peak memory, MiB", max, 0),
    ("gpu_mib", "peak GPU memory, MiB", max, 0),
    ("watt_hours", "energy, Wh", lambda values: float(np.median(values)), 4),
    ("co2_grams", "emissions, g CO₂e", lambda values: float(np.median(values)), 4),
)
"""Field of `Cost`, title, summary over the cases, and decimal places."""


def stages_of(record: Record) -> dict[str, Cost]:
    """Returns the costs of a case: the total, then the stages in the order in which they ran."""
    return {TOTAL: record.total, **record.stages}


def median_costs(results: Results, variant: Variant) -> dict[str, dict[str, float | None]]:
    """Returns the costs per case of a variant, by stage and field of `Cost`; `total` is the first stage.

    Time, energy and emissions are medians over the cases, memory is the largest value. None stands for an unknown value.

    Args:
        results: the records.
        variant: the variant.
    """
    records = [stages_of(record) for record in results.of(variant).values()]
    stages = dict.fromkeys(stage for record in records for stage in record)
    found: dict[str, dict[str, float | None]] = {}
    for stage in stages:
        costs = [record[stage] for record in records if stage in record]
        found[stage] = {name: _over(summary, (getattr(cost, name) for cost in costs)) for name, _, summary, _ in _COLUMNS}
    return found


def cost_table(results: Results) -> Table:
    """Returns the costs of all main variants, one row a stage; columns without a value are omitted.

    Args:
        results: the records.
    """
    costs = {variant: median_costs(results, variant) for variant in ordered(results.main)}
    known = [c for c in _COLUMNS if any(stage[c[0]] is not None for stages in costs.values() for stage in stages.values())]
    rows = [
        Row(variant.name, (Cell(stage), *(_cell(amounts[name], digits) for name, _, _, digits in known)))
        for variant, stages in costs.items()
        for stage, amounts in stages.items()
    ]
    ways = sorted({record.energy_how for record in results.records if record.variant.is_main})
    return Table(
        "Cost per case",
        "Time, energy and emissions: median over the cases. Memory: largest value over the cases.",
        "Segmenter",
        (Column("stage"), *(Column(title) for _, title, _, _ in known)),
        tuple(rows),
        (f"Energy: {'; '.join(ways)}.",) if ways else (),
    )


def _over(summary: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return summary(known) if known else None


def _cell(value: float | None, digits: int) -> Cell:
    return Cell() if value is None else Cell(number(value, digits), value)
