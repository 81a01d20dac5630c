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
from calibration import show
from prompt_sets import subject_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from medsam2_atlas.base.console import console
from medsam2_atlas.scoremaps import EVIDENCE

GOOD = 0.5


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    rows = [row for row in rows if row["method"] == "ours" and row["evidence"] and row["iou"]]
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


if __name__ == "__main__":
    main()
