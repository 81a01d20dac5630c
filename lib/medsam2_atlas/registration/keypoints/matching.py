"""Matches of two images' keypoints: pairs of points that are each other's most similar ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.keypoints.keypoint import Keypoints

_FAR = 5.0
"""A squared distance that no two descriptors of unit length exceed."""
_ROUNDING = 1e-5
"""Max error of a squared distance: two points with equal descriptors must not differ by it."""


@dataclass(frozen=True)
class Matches:
    """Matched keypoints of two images.

    Attributes:
        first: the number of the first image.
        second: the number of the second image.
        a: the indices of the first image's points, `[n]`.
        b: the indices of the second image's points, `[n]`.
    """

    first: int
    second: int
    a: np.ndarray
    b: np.ndarray


def match(first: Keypoints, second: Keypoints, config: KeypointConfig, *, near: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns mutual matches: each point is the other's most similar one, of the same brightness class.

    Args:
        first: keypoints of an image.
        second: keypoints of another image.
        config: the max distance of descriptors, and the max ratio to the second-best one.
        near: mm; max distance of matched points, if both images lie in one space; 0 admits all.

    Returns:
        The indices of the points in both images, each `[n]`.
    """
    empty = np.zeros(0, np.int64)
    if not len(first) or not len(second):
        return empty, empty
    u, v = (_unit(points.descriptors) for points in (first, second))
    distance = np.maximum(2 - 2 * (u @ v.T), 0)
    distance[first.bright[:, None] != second.bright[None]] = _FAR
    if near:
        p, q = first.points.astype(np.float64), second.points.astype(np.float64)
        apart = (p**2).sum(1)[:, None] + (q**2).sum(1)[None] - 2 * p @ q.T
        distance[apart > near**2] = _FAR
    best = distance.argmin(1)
    rows = np.arange(len(first))
    good = (distance.argmin(0)[best] == rows) & (distance[rows, best] <= config.max_distance**2)
    if config.ratio < 1:
        good &= _clear(distance, config.ratio)[rows] & _clear(distance.T, config.ratio)[best]
    return rows[good], best[good]


def _unit(descriptors: np.ndarray) -> np.ndarray:
    values = descriptors.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1)


def _clear(distance: np.ndarray, ratio: float) -> np.ndarray:
    """Returns for each row whether its smallest distance is clearly below the second smallest, `[n]` bool."""
    if distance.shape[1] < 2:
        return np.ones(len(distance), bool)
    two = np.partition(distance, 1, axis=1)[:, :2]
    clear: np.ndarray = two[:, 0] + _ROUNDING <= ratio**2 * two[:, 1]
    return clear
