"""Prints how well confidences predict which results are good."""

from __future__ import annotations

import numpy as np
from rich.table import Table
from scipy.stats import rankdata

from medsam2_atlas.base.console import console

BINS = 5


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
    ranks, count = rankdata(confidences), int(good.sum())
    area = (ranks[good].mean() - (count + 1) / 2) / (len(good) - count)  # Mann and Whitney 1947
    console.print(f"{len(confidences)} rows: area under the curve {area:.3f}, expected calibration error {error:.3f}")
