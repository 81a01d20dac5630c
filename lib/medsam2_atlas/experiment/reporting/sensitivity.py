"""Curves of an experiment: Dice over the distance of jitters, and accuracy over the number of references."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.reporting.csv_files import Value, write_csv
from medsam2_atlas.experiment.reporting.order import ordered
from medsam2_atlas.experiment.reporting.spread import Spread
from medsam2_atlas.experiment.results import Metric, Results, in_common
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table


@dataclass(frozen=True)
class JitterPoint:
    """Dice with one jitter.

    Attributes:
        amount: the jitter's distance in mm; 0: the original prompts.
        dice: mean over the cases of their means over the organs, and deviation between cases.
        organs: mean Dice by organ number; organs without a value are omitted.
    """

    amount: float
    dice: Spread
    organs: Mapping[int, float]


@dataclass(frozen=True)
class JitterCurve:
    """Dice over the jitter's distance, for one segmenter and one kind of jitter.

    Attributes:
        segmenter: name of the segmenter.
        kind: kind of jitter, such as `shift`.
        points: the points, by amount. All have the same cases.
    """

    segmenter: str
    kind: str
    points: tuple[JitterPoint, ...]


@dataclass(frozen=True)
class ReferencesPoint:
    """Accuracy with one number of references: means over the cases of their means over the organs.

    Attributes:
        references: number of references.
        dice: Dice.
        centre_mm: error of the prompts' centres, in mm; None without prompts.
        box_iou: IoU of the prompts' boxes with the true ones; None without prompts.
        without_prompt: number of organs without a prompt, over all cases.
    """

    references: int
    dice: Spread
    centre_mm: Spread | None
    box_iou: Spread | None
    without_prompt: int


@dataclass(frozen=True)
class ReferencesCurve:
    """Accuracy over the number of references, for one segmenter.

    Attributes:
        segmenter: name of the segmenter.
        points: the points, by number of references. All have the same cases.
    """

    segmenter: str
    points: tuple[ReferencesPoint, ...]


def jitter_curves(results: Results) -> list[JitterCurve]:
    """Returns Dice over the distance of jitters, for each segmenter and kind of jitter in the records.

    The segmenter without a jitter gives the point at 0. Only cases that all variants of a curve have count, because a case
    that is missing at one amount would bend the curve. A curve without such cases is omitted.

    Args:
        results: the records.

    Raises:
        InputError: if a variant's jitter is not of the form KIND=AMOUNT.
    """
    found: dict[tuple[str, str], dict[float, Variant]] = {}
    for variant in ordered(results.variants):
        if variant.jitter is not None and variant.references is None:
            kind, amount = _parsed(variant)
            found.setdefault((variant.segmenter, kind), {})[amount] = variant
    curves = []
    for (segmenter, kind), variants in found.items():
        unchanged = _unchanged(results, segmenter)
        if unchanged is not None:
            variants[0.0] = unchanged
        known = dict(sorted(variants.items()))
        cases = _shared(results, list(known.values()))
        points = []
        for amount, variant in known.items():
            spread = _spread(results, variant, "dice", cases)
            if spread is not None:
                points.append(JitterPoint(amount, spread, _by_organ(results, variant, cases)))
        if points:
            curves.append(JitterCurve(segmenter, kind, tuple(points)))
    return curves


def references_curves(results: Results, all_references: int | None) -> list[ReferencesCurve]:
    """Returns accuracy over the number of references, for each segmenter that ran with fewer references than the atlas has.

    Only cases that all variants of a curve have count. A curve without such cases is omitted.

    Args:
        results: the records.
        all_references: number of references of the atlas, for the segmenter without a change; None if unknown.
    """
    found: dict[str, dict[int, Variant]] = {}
    for variant in ordered(results.variants):
        if variant.references is not None and variant.jitter is None:
            found.setdefault(variant.segmenter, {})[variant.references] = variant
    curves = []
    for segmenter, variants in found.items():
        unchanged = _unchanged(results, segmenter)
        if all_references is not None and unchanged is not None:
            variants[all_references] = unchanged
        known = dict(sorted(variants.items()))
        cases = _shared(results, list(known.values()))
        points = []
        for count, variant in known.items():
            spread = _spread(results, variant, "dice", cases)
            if spread is not None:
                centre = _spread(results, variant, "centre_mm", cases)
                iou = _spread(results, variant, "box_iou", cases)
                points.append(ReferencesPoint(count, spread, centre, iou, _without_prompt(results, variant, cases)))
        if points:
            curves.append(ReferencesCurve(segmenter, tuple(points)))
    return curves


def write_jitter(curves: Sequence[JitterCurve], file: Path) -> None:
    """Writes one row per segmenter, kind, amount and organ; the organ `mean` stands for the mean and deviation over the cases.

    Args:
        curves: result of `jitter_curves`.
        file: the file to write.

    Raises:
        StorageError: if the folder does not exist.
    """
    rows: list[list[Value]] = []
    for curve in curves:
        for point in curve.points:
            start: list[Value] = [curve.segmenter, curve.kind, point.amount, point.dice.count]
            rows.append([*start, "mean", point.dice.mean, point.dice.deviation])
            rows += [[*start, organ_table()[organ].name, dice, None] for organ, dice in point.organs.items()]
    write_csv(("segmenter", "kind", "amount_mm", "cases", "organ", "dice", "deviation"), rows, file)


def write_references(curves: Sequence[ReferencesCurve], file: Path) -> None:
    """Writes one row per segmenter and number of references, with means and deviations over the cases.

    Args:
        curves: result of `references_curves`.
        file: the file to write.

    Raises:
        StorageError: if the folder does not exist.
    """
    head = ["segmenter", "references", "cases", "without_prompt"]
    for metric in ("dice", "centre_mm", "box_iou"):
        head += [metric, f"{metric}_deviation"]
    rows: list[list[Value]] = []
    for curve in curves:
        for point in curve.points:
            row: list[Value] = [curve.segmenter, point.references, point.dice.count, point.without_prompt]
            for spread in (point.dice, point.centre_mm, point.box_iou):
                row += [None, None] if spread is None else [spread.mean, spread.deviation]
            rows.append(row)
    write_csv(head, rows, file)


def _parsed(variant: Variant) -> tuple[str, float]:
    """Returns kind and distance (mm) of a variant's jitter."""
    kind, _, amount = str(variant.jitter).partition("=")
    try:
        found = float(amount)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        problem = f"has the jitter {variant.jitter!r}, which is not of the form KIND=AMOUNT."
        raise InputError(variant.segmenter, problem, "Remove the records of this variant; its cases are then run again.")
    return kind, found


def _unchanged(results: Results, segmenter: str) -> Variant | None:
    """Returns the variant that is the segmenter without a change; None if it was not run."""
    return next((variant for variant in results.main if variant.segmenter == segmenter), None)


def _shared(results: Results, variants: Sequence[Variant]) -> set[str]:
    """Returns the cases in which all variants have a mean Dice."""
    return set(in_common([results.case_means(variant, "dice") for variant in variants]))


def _spread(results: Results, variant: Variant, metric: Metric, cases: set[str]) -> Spread | None:
    return Spread.of(value for case, value in results.case_means(variant, metric).items() if case in cases)


def _by_organ(results: Results, variant: Variant, cases: set[str]) -> dict[int, float]:
    """Returns the mean Dice of each organ over some cases, by organ number."""
    found = {}
    for organ in results.organs:
        values = results.values(variant, "dice", organ)
        spread = Spread.of(value for case, value in values.items() if case in cases)
        if spread is not None:
            found[organ] = spread.mean
    return found


def _without_prompt(results: Results, variant: Variant, cases: set[str]) -> int:
    """Returns the number of organs without a prompt over some cases."""
    chosen = Results(tuple(record for record in results.records if record.case in cases), results.organs)
    return sum(chosen.without_prompt(variant).values())
