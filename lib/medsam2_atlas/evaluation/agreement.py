"""Compares two segmentations of one CT: a map of their differences, and scores per organ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsam2_atlas.evaluation.metrics import OrganScore, compare_labels
from medsam2_atlas.imaging.dice import dice_per_organ, mean_dice
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Report, Segmentation

DISAGREEMENT_LABELS = {"only_first": 1, "only_second": 2, "different_organs": 3}
"""Values of the map of differences: organ only in the first, only in the second, different organs in both."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two segmentations.

    Attributes:
        labels: differences `[z, y, x]`, with the values of `DISAGREEMENT_LABELS`; 0 at voxels where both agree.
        scores: scores by organ number, for each organ that at least one segmentation contains.
    """

    labels: Volume
    scores: dict[int, OrganScore]

    @property
    def mean_dice(self) -> float:
        """The mean Dice over the organs that at least one segmentation contains."""
        return mean_dice({k: score.dice for k, score in self.scores.items()})


def compare_segmentations(first: Volume, second: Volume, organs: Sequence[int] = ()) -> Agreement:
    """Compares two label maps of one CT.

    Args:
        first: label map `[z, y, x]`.
        second: label map `[z, y, x]` on the same grid.
        organs: numbers of the organs to compare, such as those that both models segment; by default all.

    Raises:
        InputError: if the grids differ.
    """
    scores = compare_labels(first, second, organs or organ_table().indices)
    a, b = (np.where(np.isin(one.array, organs), one.array, 0) if organs else one.array for one in (first, second))
    return Agreement(first.with_array(difference_map(a, b)), scores)


def difference_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the differences of two label maps with the values of `DISAGREEMENT_LABELS`; 0 at voxels where both agree.

    Args:
        first: label map `[z, y, x]`, organ numbers.
        second: label map of the same shape.

    Returns:
        The differences `[z, y, x]`, uint8.
    """
    differences = np.zeros(first.shape, np.uint8)
    differences[(first > 0) & (second == 0)] = DISAGREEMENT_LABELS["only_first"]
    differences[(first == 0) & (second > 0)] = DISAGREEMENT_LABELS["only_second"]
    differences[(first > 0) & (second > 0) & (first != second)] = DISAGREEMENT_LABELS["different_organs"]
    return differences


def comparison_report(agreement: Agreement, models: Mapping[str, Segmentation], final: Volume | None = None) -> dict[str, Any]:
    """Returns the comparison as JSON values: agreement per organ, and time, energy and Dice to the final label per model.

    Args:
        agreement: agreement of the two models' label maps, in the order of `models`.
        models: segmentations by model name.
        final: the label map `[z, y, x]` that a person signed off; None if there is none.
    """
    table = organ_table()
    report: dict[str, Any] = {
        "models": list(models),
        "mean_dice": round(agreement.mean_dice, 4),
        "organs": {table[k].name: score.as_dict() for k, score in agreement.scores.items()},
        "cost": {name: _cost(result.report) for name, result in models.items()},
        "marks": {name: result.report.mark or "" for name, result in models.items()},
    }
    if differ := {name: result.report.disagreement for name, result in models.items() if result.report.disagreement}:
        report["disagreement"] = differ
    if final is not None:
        report["final"] = {}
        for name, result in models.items():
            dice = dice_per_organ(result.labels.array, final.array, result.report.organ_numbers)
            named = {table[k].name: round(v, 4) for k, v in dice.items()}
            report["final"][name] = {"mean_dice": round(mean_dice(dice), 4), "organs": named}
    return report


def _cost(report: Report) -> dict[str, Any]:
    energy = report.energy or {}
    return {
        "seconds": report.seconds["total"],
        "watt_hours": energy.get("watt_hours"),
        "energy_how": energy.get("how", "not measured"),
        "device": report.device,
        "from_cache": bool(report.from_cache),
    }
