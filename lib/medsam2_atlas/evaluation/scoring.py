"""Scores of label map files against each other, and their means over studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.evaluation.metrics import OrganScore, compare_labels
from medsam2_atlas.imaging.decoding import is_segmentation
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels


def score_files(truth: Path, judged: Path, image_of: Callable[[], str | Path]) -> dict[int, OrganScore]:
    """Returns the scores of a label map by organ; only organs that the true one holds are scored, the others count as not
    annotated.

    Args:
        truth: the true label map.
        judged: the label map to score, on the same grid.
        image_of: returns file or folder of their image; called only if the true label map is a segmentation of 3D Slicer, whose
            grid the image tells.

    Raises:
        InputError: one of them cannot be read, or their grids differ.
    """
    first = read_labels(truth, image=image_of() if is_segmentation(truth) else None)
    organs = sorted({int(value) for value in np.unique(first.array)} - {0})
    return compare_labels(read_labels(judged, first), first, organs)


def mean_scores(scores: Sequence[dict[int, OrganScore]]) -> dict[str, Any]:
    """Returns the means of studies' scores, over studies for each organ and over the organs, for JSON."""
    table = organ_table()
    organs: dict[str, Any] = {}
    for k in table.indices:
        here = [found[k] for found in scores if k in found]
        if here:
            far = [score.hd95_mm for score in here if score.hd95_mm is not None]
            organs[table[k].name] = {
                "studies": len(here),
                "dice": rounded_mean(score.dice for score in here),
                "nsd": rounded_mean(score.nsd for score in here),
                "hd95_mm": rounded_mean(far) if far else None,
            }
    overall = {key: rounded_mean(o[key] for o in organs.values() if o[key] is not None) for key in ("dice", "nsd", "hd95_mm")}
    return {"studies": len(scores), **overall, "organs": organs} if organs else {"studies": 0, "organs": {}}


def rounded_mean(values: Iterable[float]) -> float:
    """Returns the mean, rounded to four digits; NaN of no values."""
    listed = list(values)
    return round(float(np.mean(listed)), 4) if listed else float("nan")
