"""Weights of matches: the probability that both points show the same place, by expectation-maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.registration.keypoints.config import KeypointConfig

_ROUNDS = 20
"""Rounds of expectation-maximisation; the estimate hardly changes after ten."""


@dataclass(frozen=True)
class Mixture:
    """The distances of an image's matches: inliers and outliers, both chi-distributed with three degrees of freedom.

    Attributes:
        share: the share of inliers, 0..1.
        scale: the scale of the inliers' distances in mm.
        broad: the scale of the outliers' distances in mm: that of points that have nothing to do with each other.
    """

    share: float
    scale: float
    broad: float

    def inlier(self, distances: np.ndarray) -> np.ndarray:
        """Returns the probability of being an inlier, `[n]`, by distance in mm, `[n]`."""
        squares = distances**2
        inside = self.share * np.exp(-squares / (2 * self.scale**2)) / self.scale**3
        outside = (1 - self.share) * np.exp(-squares / (2 * self.broad**2)) / self.broad**3
        probability: np.ndarray = inside / np.maximum(inside + outside, 1e-300)
        return probability


def fit_mixture(distances: np.ndarray, broad: float, config: KeypointConfig, start: Mixture | None = None) -> Mixture:
    """Estimates the mixture of an image's distances (Agier et al. 2020, section on outliers).

    Args:
        distances: the distances of its matches in mm, `[n]`; at least one.
        broad: the scale of the outliers' distances in mm.
        config: the limits of the inliers' scale, and the max number of distances that are used.
        start: the previous estimate; by default, a third are inliers, and their scale is the upper limit.
    """
    lower, upper = config.inlier_limits
    upper = min(upper, broad / 2)
    step = -(-len(distances) // config.sample)
    used = np.sort(distances)[::step]  # evenly over their ranks: deterministic
    found = start or Mixture(1 / 3, upper, broad)
    for _ in range(_ROUNDS):
        inside = found.inlier(used)
        total = max(float(inside.sum()), 1e-9)
        scale = np.sqrt(float((inside * used**2).sum()) / (3 * total))
        share = float(np.clip(total / len(used), 0.01, 0.99))
        found = Mixture(share, float(np.clip(scale, min(lower, upper), upper)), broad)
    return found
