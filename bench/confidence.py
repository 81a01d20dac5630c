"""Calibrates the confidence of prompts on the rows of `bench/prompts.py --out`: `python bench/confidence.py ROWS.json...`

Logistic regression of "the boxes overlap the true ones by half or more" on the evidence about each score map. Prints the
weights for `configs/confidence.yaml`, and how good they are on subjects that were left out of the fit in turn, beside those
that the rows were made with: area under the ROC curve, expected calibration error in five bins, share of good boxes in each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from prompts import subject_of
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from medsam2_atlas.base.console import console
from medsam2_atlas.scoremaps import EVIDENCE

GOOD, BINS = 0.5, 5


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    rows = [row for row in rows if row["method"] == "ours" and row["evidence"] and row["iou"]]
    features = np.array([[row["evidence"][name] for name in EVIDENCE] for row in rows])
    good = np.array([np.mean(row["iou"]) >= GOOD for row in rows])
    subjects = np.array([f"{row['set']}/{subject_of(row['target'])}" for row in rows])
    model = LogisticRegression(C=3.0, max_iter=1000)
    said = cross_val_predict(model, features, good, groups=subjects, cv=LeaveOneGroupOut(), method="predict_proba")[:, 1]
    show(f"fitted anew, each of {len(set(subjects))} subjects left out in turn", said, good)
    show("as the rows have it", np.array([row["confidence"] for row in rows]), good)
    fitted = model.fit(features, good)
    weights = ", ".join(f"{name}: {w:.3f}" for name, w in zip(EVIDENCE, fitted.coef_[0], strict=True))
    console.print(f"bias: {fitted.intercept_[0]:.3f}\nweights: {{{weights}}}")


def show(title: str, said: np.ndarray, good: np.ndarray) -> None:
    """How well confidences tell good boxes."""
    which = np.minimum((said * BINS).astype(int), BINS - 1)
    table = Table("confidence", "prompts", "mean confidence", "good boxes", title=title)
    error = 0.0
    for n in range(BINS):
        mine = which == n
        if mine.any():
            table.add_row(
                f"{n / BINS:.1f}-{(n + 1) / BINS:.1f}", str(mine.sum()), f"{said[mine].mean():.2f}", f"{good[mine].mean():.2f}"
            )
            error += abs(said[mine].mean() - good[mine].mean()) * mine.mean()
    console.print(table)
    area = roc_auc_score(good, said)
    console.print(f"{len(said)} prompts: area under the curve {area:.3f}, expected calibration error {error:.3f}")


if __name__ == "__main__":
    main()
