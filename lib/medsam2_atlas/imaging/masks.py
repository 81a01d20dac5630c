"""Boxes and components of masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage


def occupied(array: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Returns one slice per axis around all values that are not 0, `margin` wider within the array; None where all are 0."""
    spans = []
    for axis, length in enumerate(array.shape):
        seen = np.flatnonzero(array.any(tuple(a for a in range(array.ndim) if a != axis)))
        if not len(seen):
            return None
        spans.append(slice(max(0, int(seen[0]) - margin), min(length, int(seen[-1]) + 1 + margin)))
    return tuple(spans)


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the intersection over union of two boxes, corners `[2, d]` each, the second corner past the last voxel."""
    common = np.clip(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0, None).prod()
    return float(common / ((first[1] - first[0]).prod() + (second[1] - second[0]).prod() - common))


def keep_largest_components(labels: np.ndarray) -> np.ndarray:
    """Returns a label map in which each organ is its largest 6-connected component."""
    return _with_pieces(labels, lambda sizes: np.arange(len(sizes)) == sizes.argmax())


def without_specks(labels: np.ndarray, min_share: float) -> np.ndarray:
    """Returns a label map without the 6-connected pieces that hold less than a share of their organ's voxels."""
    return _with_pieces(labels, lambda sizes: sizes >= min_share * sizes.sum())


def at_ends(labels: np.ndarray) -> set[int]:
    """Returns the organs on the first or last slice of a label map `[z, y, x]`: the scan may cut them."""
    return set(np.unique(labels[[0, -1]]).tolist()) - {0}


def _with_pieces(labels: np.ndarray, chosen: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A label map of the pieces that `chosen` picks from the sizes of an organ's; the first size is 0, the background's."""
    result = labels.copy()
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == k)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            result[box][(pieces > 0) & ~chosen(sizes)[pieces]] = 0
    return result
