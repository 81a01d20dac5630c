"""The box of an array that holds all that is not zero."""

from __future__ import annotations

import numpy as np


def occupied(array: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """One slice per axis around all values that are not 0, `margin` wider within the array; None where all are 0."""
    spans = []
    for axis, length in enumerate(array.shape):
        seen = np.flatnonzero(array.any(tuple(a for a in range(array.ndim) if a != axis)))
        if not len(seen):
            return None
        spans.append(slice(max(0, int(seen[0]) - margin), min(length, int(seen[-1]) + 1 + margin)))
    return tuple(spans)
