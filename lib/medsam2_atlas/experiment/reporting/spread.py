"""Mean and deviation of some values, and the way tables show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.experiment.results import Metric

DIGITS: dict[Metric, int] = {
    "dice": 3,
    "nsd": 3,
    "hd95_mm": 1,
    "volume_difference_ml": 1,
    "centre_mm": 1,
    "box_iou": 3,
}
"""Decimal places of each metric in tables."""


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of some values.

    Attributes:
        mean: the mean.
        deviation: the sample standard deviation (divisor n − 1); None with one value.
        count: number of values.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Returns mean and deviation of values; None without values.

        >>> Spread.of([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0, count=3)
        """
        listed = list(values)
        if not listed:
            return None
        deviation = float(np.std(listed, ddof=1)) if len(listed) > 1 else None
        return cls(float(np.mean(listed)), deviation, len(listed))


def shown(mean: float, deviation: float | None, digits: int) -> str:
    """Returns mean and deviation as a text.

    >>> shown(0.6618, 0.0513, 3), shown(-2, None, 1)
    ('0.662 ± 0.051', '−2.0')
    """
    return number(mean, digits) + ("" if deviation is None else f" ± {number(deviation, digits)}")


def number(value: float, digits: int) -> str:
    """Returns a number with decimal places and a true minus sign; a value that rounds to 0 has no sign.

    >>> number(-0.0004, 3), number(-0.25, 2)
    ('0.000', '−0.25')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
