"""Calibrates the confidence of prompts on rows of `bench/prompts.py --out` (`python bench/confidence.py ROWS.json...`).

Fits a logistic regression of "the boxes overlap the ground-truth boxes by half or more" on the evidence of each score map.
Prints the weights for `configs/confidence.yaml`. Also prints the quality of the new confidences, with one subject left out of
the fit at a time, and of the confidences in the rows: area under the ROC curve, expected calibration error in five bins, and
the share of good boxes in each bin. Only the rows of the method `ours` with the published rule count, without noisy copies.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from calibration import fitted, left_out, show
from prompt_sets import subject_of

from medsam2_atlas.base.console import console
from medsam2_atlas.scoremaps import EVIDENCE

GOOD = 0.5


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    rows = [row for row in rows if (row["method"], row.get("rule", "published"), row["copy"]) == ("ours", "published", 0)]
    rows = [row for row in rows if row["evidence"] and row["iou"]]
    features = np.array([[row["evidence"].get(name, 0.0) for name in EVIDENCE] for row in rows])
    good = np.array([np.mean(row["iou"]) >= GOOD for row in rows])
    subjects = np.array([subject_of(row["target"]) for row in rows])
    show(f"new fit, each of {len(set(subjects))} subjects left out in turn", left_out(features, good, subjects), good)
    show("confidences in the rows", np.array([row["confidence"] for row in rows]), good)
    bias, weights = fitted(features, good)
    console.print(
        f"bias: {bias:.3f}\nweights: {{{', '.join(f'{name}: {w:.3f}' for name, w in zip(EVIDENCE, weights, strict=True))}}}"
    )


if __name__ == "__main__":
    main()
