"""Bounding boxes and connected components of masks and label maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage


def occupied(array: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Returns the bounding box of all nonzero values, as one slice per axis; None if all values are 0.

    Args:
        array: any values, of any number of axes.
        margin: voxels by which the box is enlarged on each side, within the array.

    >>> occupied(np.array([0, 0, 7, 0, 1, 0]))
    (slice(2, 5, None),)
    """
    spans = []
    for axis, length in enumerate(array.shape):
        seen = np.flatnonzero(array.any(tuple(a for a in range(array.ndim) if a != axis)))
        if not len(seen):
            return None
        spans.append(slice(max(0, int(seen[0]) - margin), min(length, int(seen[-1]) + 1 + margin)))
    return tuple(spans)


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the intersection over union of two boxes, 0..1.

    Args:
        first: corners of a box, `[2, axis]` in voxels: the first voxel, and the one after the last.
        second: corners of the other box, likewise.
    """
    common = np.clip(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0, None).prod()
    return float(common / ((first[1] - first[0]).prod() + (second[1] - second[0]).prod() - common))


def keep_largest_components(labels: np.ndarray) -> np.ndarray:
    """Returns a label map, of the same shape, with only the largest 6-connected component of each organ.

    Args:
        labels: label map `[z, y, x]`, organ numbers.
    """
    return _with_pieces(labels, lambda sizes: np.arange(len(sizes)) == sizes.argmax())


def without_specks(labels: np.ndarray, min_share: float) -> np.ndarray:
    """Returns a label map, of the same shape, without small 6-connected components.

    Args:
        labels: label map `[z, y, x]`, organ numbers.
        min_share: min size of a component, as a fraction of its organ's voxels, 0..1.
    """
    return _with_pieces(labels, lambda sizes: sizes >= min_share * sizes.sum())


def at_ends(labels: np.ndarray) -> set[int]:
    """Returns the organs on the first or last slice of a label map `[z, y, x]`; they may be only partially imaged."""
    return set(np.unique(labels[[0, -1]]).tolist()) - {0}


def _with_pieces(labels: np.ndarray, chosen: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns a label map with selected components only.

    `chosen` gets the sizes of an organ's components and returns which to keep. The first size, of the background, is 0.
    """
    result = labels.copy()
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == k)
        if count > 1:
            sizes = np.zeros(count + 1, np.int64)
            for plane in pieces:  # bincount copies its input to 64 bits
                sizes += np.bincount(plane.ravel(), minlength=count + 1)
            sizes[0] = 0
            result[box][(pieces > 0) & ~chosen(sizes)[pieces]] = 0
    return result
