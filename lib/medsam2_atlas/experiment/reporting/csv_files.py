"""Writes `cases.csv`, the scores of each case, variant and organ, and `costs.csv`, the costs of each case, variant and stage.

Rows are sorted, and numbers have all their digits, so equal records give equal files. `cases.csv` contains no times.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.printable import printable
from medsam2_atlas.experiment.record import OrganResult, Record
from medsam2_atlas.experiment.reporting.cost_table import stages_of
from medsam2_atlas.experiment.reporting.order import ordered
from medsam2_atlas.experiment.results import Results, value_of
from medsam2_atlas.imaging.labels import organ_table

Value = str | int | float | bool | None
"""A cell; None is written as an empty cell, a truth value as 0 or 1."""

_VARIANT = ("case", "segmenter", "references", "jitter")
_CASES = (
    *_VARIANT,
    "organ",
    "organ_name",
    "truth_ml",
    "predicted_ml",
    "volume_difference_ml",
    "truth_empty",
    "prediction_empty",
    "dice",
    "nsd",
    "hd95_mm",
    "empty_rule",
    "dice_by_rule",
    "nsd_by_rule",
    "hd95_mm_by_rule",
    "without_prompt",
    "centre_mm",
    "z_min_mm",
    "z_max_mm",
    "box_iou",
    "cut",
)
_COSTS = (*_VARIANT, "stage", "seconds", "peak_mib", "gpu_mib", "watt_hours", "co2_grams", "energy_how")


def write_cases(results: Results, file: Path) -> None:
    """Writes one row per case, variant and organ that ground truth or prediction contains.

    `dice`, `nsd` and `hd95_mm` are the raw scores; the columns `…_by_rule` have the values that count under the rule for empty
    masks, and are empty if the organ does not count. The columns of prompt errors are empty without a prompt.

    Args:
        results: the records.
        file: the file to write.

    Raises:
        StorageError: if the folder does not exist.
    """
    rows = (_scores(record, organ, results) for record in _sorted(results) for organ in _organs(record, results))
    write_csv(_CASES, rows, file)


def write_costs(results: Results, file: Path) -> None:
    """Writes one row per case, variant and stage; the stage `total` is the whole case.

    Args:
        results: the records.
        file: the file to write.

    Raises:
        StorageError: if the folder does not exist.
    """
    rows = (
        [*_variant(record), stage, *cost.model_dump().values(), record.energy_how]
        for record in _sorted(results)
        for stage, cost in stages_of(record).items()
    )
    write_csv(_COSTS, rows, file)


def write_csv(head: Sequence[str], rows: Iterable[Sequence[Value]], file: Path) -> None:
    """Writes a CSV file in one step. Floats have all their digits; invisible characters in texts become escapes.

    Args:
        head: titles of the columns.
        rows: cells of each row.
        file: the file to write.

    Raises:
        StorageError: if the folder does not exist.
    """
    with replacing(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows([_text(value) for value in row] for row in rows)


def _sorted(results: Results) -> list[Record]:
    places = {variant: place for place, variant in enumerate(ordered(results.variants))}
    return sorted(results.records, key=lambda record: (record.case, places[record.variant]))


def _organs(record: Record, results: Results) -> list[OrganResult]:
    return [found for organ in results.organs if (found := record.organ(organ)) is not None]


def _variant(record: Record) -> list[Value]:
    return [record.case, record.variant.segmenter, record.variant.references, record.variant.jitter]


def _scores(record: Record, organ: OrganResult, results: Results) -> list[Value]:
    by_rule = [value_of(organ, metric, record.diagonal_mm, results.empty) for metric in ("dice", "nsd", "hd95_mm")]
    prompt = organ.prompt
    errors: list[Value] = [None] * 5
    if prompt is not None:
        errors = [prompt.centre_mm, prompt.z_min_mm, prompt.z_max_mm, prompt.box_iou, prompt.cut]
    return [
        *_variant(record),
        organ.organ,
        organ_table()[organ.organ].name,
        organ.truth_ml,
        organ.predicted_ml,
        organ.predicted_ml - organ.truth_ml,
        organ.truth_ml == 0,
        organ.predicted_ml == 0,
        organ.dice,
        organ.nsd,
        organ.hd95_mm,
        results.empty,
        *by_rule,
        record.prompted and organ.truth_ml > 0 and prompt is None,
        *errors,
    ]


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    return repr(int(value)) if isinstance(value, bool) else repr(value)
