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
from prompt_sets import subject_of
from rich.table import Table
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from medsam2_atlas.base.console import console
from medsam2_atlas.scoremaps import EVIDENCE

GOOD, BINS = 0.5, 5
PENALTY = 1 / 3
"""Weight of half the squared length of the weights, compared with the sum of the log losses of all prompts."""


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    rows = [row for row in rows if (row["method"], row.get("rule", "published"), row["copy"]) == ("ours", "published", 0)]
    rows = [row for row in rows if row["evidence"] and row["iou"]]
    features = np.array([[row["evidence"].get(name, 0.0) for name in EVIDENCE] for row in rows])
    good = np.array([np.mean(row["iou"]) >= GOOD for row in rows])
    subjects = np.array([subject_of(row["target"]) for row in rows])
    predicted = np.zeros(len(rows))
    for subject in set(subjects):
        left_out = subjects == subject
        bias, weights = fitted(features[~left_out], good[~left_out])
        predicted[left_out] = expit(bias + features[left_out] @ weights)
    show(f"new fit, each of {len(set(subjects))} subjects left out in turn", predicted, good)
    show("confidences in the rows", np.array([row["confidence"] for row in rows]), good)
    bias, weights = fitted(features, good)
    console.print(
        f"bias: {bias:.3f}\nweights: {{{', '.join(f'{name}: {w:.3f}' for name, w in zip(EVIDENCE, weights, strict=True))}}}"
    )


def fitted(features: np.ndarray, good: np.ndarray) -> tuple[float, np.ndarray]:
    """Fits a logistic regression; the bias is not penalised.

    Args:
        features: evidence, `[prompts, measures]`.
        good: whether boxes are good, `[prompts]` bool.

    Returns:
        The bias and the weights `[measures]`.
    """
    columns = np.column_stack([np.ones(len(features)), features])
    penalty = np.r_[0.0, np.full(features.shape[1], PENALTY)]
    sign = np.where(good, 1.0, -1.0)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margins = sign * (columns @ values)
        total = np.logaddexp(0, -margins).sum() + (penalty * values**2).sum() / 2
        return float(total), -columns.T @ (sign * expit(-margins)) + penalty * values

    found = minimize(loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B").x
    return float(found[0]), found[1:]


def area_under_curve(values: np.ndarray, good: np.ndarray) -> float:
    """Returns the area under the ROC curve, from the ranks of the good prompts (Mann and Whitney 1947).

    Examples:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    count = int(good.sum())
    total = float(rankdata(values)[good].sum()) - count * (count + 1) / 2
    return total / (count * (len(good) - count))


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
    area = area_under_curve(confidences, good)
    console.print(f"{len(confidences)} prompts: area under the curve {area:.3f}, expected calibration error {error:.3f}")


if __name__ == "__main__":
    main()
