"""Calibrates the confidence of prompts on rows of `bench/prompts.py --out` (`python bench/confidence.py ROWS.json...`).

Fits a logistic regression of "the boxes overlap the ground-truth boxes by half or more" on the evidence of each score map.
Prints the weights for `configs/confidence.yaml`. Also prints the quality of the new confidences, with one subject left out of
the fit at a time, and of the confidences in the rows: area under the ROC curve, expected calibration error in five bins, and
the share of good boxes in each bin.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from prompt_sets import subject_of
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from medsam2_atlas.base.console import console
from medsam2_atlas.scoremaps import EVIDENCE

GOOD, BINS = 0.5, 5


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    rows = [row for row in rows if (row["method"], row.get("rule", "published")) == ("ours", "published")]
    rows = [row for row in rows if row["evidence"] and row["iou"]]
    features = np.array([[row["evidence"].get(name, 0.0) for name in EVIDENCE] for row in rows])
    good = np.array([np.mean(row["iou"]) >= GOOD for row in rows])
    subjects = np.array([f"{row['set']}/{subject_of(row['target'])}" for row in rows])
    model = LogisticRegression(C=3.0, max_iter=1000)
    predicted = cross_val_predict(model, features, good, groups=subjects, cv=LeaveOneGroupOut(), method="predict_proba")[:, 1]
    show(f"new fit, each of {len(set(subjects))} subjects left out in turn", predicted, good)
    show("confidences in the rows", np.array([row["confidence"] for row in rows]), good)
    fitted = model.fit(features, good)
    weights = ", ".join(f"{name}: {w:.3f}" for name, w in zip(EVIDENCE, fitted.coef_[0], strict=True))
    console.print(f"bias: {fitted.intercept_[0]:.3f}\nweights: {{{weights}}}")


def show(title: str, confidences: np.ndarray, good: np.ndarray) -> None:
    """Prints how well confidences, 0..1 of shape [prompts], predict which boxes are good (bool of shape [prompts])."""
    which = np.minimum((confidences * BINS).astype(int), BINS - 1)
    table = Table("confidence", "prompts", "mean confidence", "good boxes", title=title)
    error = 0.0
    for n in range(BINS):
        mine = which == n
        if mine.any():
            mean, share = confidences[mine].mean(), good[mine].mean()
            table.add_row(f"{n / BINS:.1f}-{(n + 1) / BINS:.1f}", str(mine.sum()), f"{mean:.2f}", f"{share:.2f}")
            error += abs(mean - share) * mine.mean()
    console.print(table)
    area = roc_auc_score(good, confidences)
    console.print(f"{len(confidences)} prompts: area under the curve {area:.3f}, expected calibration error {error:.3f}")


if __name__ == "__main__":
    main()
