"""Fits confidences by logistic regression, and prints how well confidences predict which results are good."""

from __future__ import annotations

import numpy as np
from rich.table import Table
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from medsam2_atlas.base.console import console

BINS = 5
PENALTY = 1 / 3
"""Weight of half the squared length of the weights, compared with the sum of the log losses of all rows."""


def fitted(features: np.ndarray, good: np.ndarray) -> tuple[float, np.ndarray]:
    """Fits a logistic regression; the bias is not penalised.

    Args:
        features: evidence, `[rows, measures]`.
        good: whether results are good, `[rows]` bool.

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


def left_out(features: np.ndarray, good: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[rows]` that fits on the other groups predict.

    Args:
        features: evidence, `[rows, measures]`.
        good: whether results are good, `[rows]` bool.
        groups: names `[rows]`, such as subjects.
    """
    predicted = np.zeros(len(good))
    for group in set(groups):
        mine = groups == group
        bias, weights = fitted(features[~mine], good[~mine])
        predicted[mine] = expit(bias + features[mine] @ weights)
    return predicted


def area_under_curve(values: np.ndarray, good: np.ndarray) -> float:
    """Returns the area under the ROC curve, from the ranks of the good rows (Mann and Whitney 1947).

    Examples:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    count = int(good.sum())
    total = float(rankdata(values)[good].sum()) - count * (count + 1) / 2
    return total / (count * (len(good) - count))


def show(title: str, confidences: np.ndarray, good: np.ndarray) -> None:
    """Prints how well confidences, 0..1 of shape `[row]`, predict which rows are good, bool `[row]`."""
    which = np.minimum((confidences * BINS).astype(int), BINS - 1)
    table = Table("confidence", "number", "mean confidence", "share of good ones", title=title)
    error = 0.0
    for n in range(BINS):
        mine = which == n
        if mine.any():
            mean, share = confidences[mine].mean(), good[mine].mean()
            table.add_row(f"{n / BINS:.1f}-{(n + 1) / BINS:.1f}", str(mine.sum()), f"{mean:.2f}", f"{share:.2f}")
            error += abs(mean - share) * mine.mean()
    console.print(table)
    area = area_under_curve(confidences, good)
    console.print(f"{len(confidences)} rows: area under the curve {area:.3f}, expected calibration error {error:.3f}")
