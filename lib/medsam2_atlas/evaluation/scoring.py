"""Scores label map files, and averages scores over studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.evaluation.metrics import OrganScore, compare_labels
from medsam2_atlas.imaging.decoding import is_segmentation
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels


def score_files(truth: Path, scored: Path, image_of: Callable[[], str | Path]) -> dict[int, OrganScore]:
    """Scores a label map against the ground truth. Organs that the ground truth does not contain count as not annotated.

    Args:
        truth: file of the ground truth.
        scored: file of the label map to score, on the same grid.
        image_of: returns file or folder of the image; called only if the ground truth is a segmentation of 3D Slicer, which
            needs the image's grid.

    Returns:
        Scores by organ number.

    Raises:
        InputError: if a file cannot be read, or the grids differ.
    """
    first = read_labels(truth, image=image_of() if is_segmentation(truth) else None)
    organs = sorted({int(value) for value in np.unique(first.array)} - {0})
    return compare_labels(read_labels(scored, first), first, organs)


def mean_scores(scores: Sequence[dict[int, OrganScore]]) -> dict[str, Any]:
    """Averages scores over studies for each organ, and then over organs; returns JSON values.

    Args:
        scores: scores by organ number, one entry per study.
    """
    table = organ_table()
    organs: dict[str, Any] = {}
    for k in table.indices:
        here = [found[k] for found in scores if k in found]
        if here:
            distances = [score.hd95_mm for score in here if score.hd95_mm is not None]
            organs[table[k].name] = {
                "studies": len(here),
                "dice": rounded_mean(score.dice for score in here),
                "nsd": rounded_mean(score.nsd for score in here),
                "hd95_mm": rounded_mean(distances) if distances else None,
            }
    overall = {key: rounded_mean(o[key] for o in organs.values() if o[key] is not None) for key in ("dice", "nsd", "hd95_mm")}
    return {"studies": len(scores), **overall, "organs": organs} if organs else {"studies": 0, "organs": {}}


def rounded_mean(values: Iterable[float]) -> float:
    """Returns the mean, rounded to four digits; NaN if there are no values.

    >>> rounded_mean([0.5, 0.9])
    0.7
    """
    listed = list(values)
    return round(float(np.mean(listed)), 4) if listed else float("nan")
