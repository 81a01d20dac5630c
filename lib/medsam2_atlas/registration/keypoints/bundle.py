"""All matched points of a group, their weights, and the images that may move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.keypoints.matching import Matches
from medsam2_atlas.registration.keypoints.weights import Mixture, fit_mixture

_SPARE = 1e-9


class Bundle:
    """The matched points of several images in their common space.

    Attributes:
        places: the current positions of all points of all images, `[n, 3]` (x, y, z) in mm.
        weights: the weight of each match, 0..1, `[n]`; 0 for outliers.
        moving: the numbers of the images that move.
        parts: the points of each image in `places`.
    """

    def __init__(
        self,
        points: Sequence[np.ndarray],
        matches: Sequence[Matches],
        moving: Sequence[int],
        config: KeypointConfig,
        near: float = 0.0,
    ) -> None:
        """Joins the points of images.

        Args:
            points: the points of each image, `[n, 3]` (x, y, z) in mm.
            matches: matches between the images.
            moving: the numbers of the images that move.
            config: the settings of keypoints.
            near: mm; the max distance of matched points when they were matched; 0 if it was not limited.
        """
        stops = np.cumsum([len(p) for p in points])
        self.parts = [slice(int(stop) - len(p), int(stop)) for stop, p in zip(stops, points, strict=True)]
        self.places = np.concatenate(points).astype(np.float64)
        self.moving = tuple(moving)
        self._config, self._near = config, near
        self._a = np.concatenate([m.a + self.parts[m.first].start for m in matches] or [np.zeros(0, int)])
        self._b = np.concatenate([m.b + self.parts[m.second].start for m in matches] or [np.zeros(0, int)])
        self._images = np.concatenate(
            [np.tile([[m.first], [m.second]], (1, len(m.a))) for m in matches] or [np.zeros((2, 0), int)], axis=1
        )
        self._mixtures: dict[int, Mixture] = {}
        self.weights = np.ones(len(self._a))

    @property
    def count(self) -> int:
        """The number of matches that are not outliers."""
        return int((self.weights > 0).sum())

    def counts(self) -> np.ndarray:
        """Returns the number of matches that are not outliers by image, `[n]`."""
        used = self._images[:, self.weights > 0].ravel()
        return np.bincount(used, minlength=len(self.parts))

    def distances(self) -> np.ndarray:
        """Returns the distance of each match in mm, `[n]`."""
        return np.linalg.norm(self.places[self._a] - self.places[self._b], axis=1)

    def weigh(self, *, hard: bool = True) -> None:
        """Estimates the weights: the product of the probabilities of being an inlier in both images.

        Args:
            hard: whether matches whose weight is below `min_weight` get the weight 0.
        """
        if not len(self._a):
            return
        distances = self.distances()
        broad = self._broad()
        weights = np.ones(len(distances))
        for image in range(len(self.parts)):
            mine = (self._images == image).any(0)
            if mine.any():
                found = fit_mixture(distances[mine], broad, self._config, self._mixtures.get(image))
                self._mixtures[image] = found
                weights[mine] *= found.inlier(distances[mine])
        self.weights = np.where(weights >= self._config.min_weight, weights, 0.0) if hard else weights

    def pulls(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weighted sum of the offsets to each point's matches, `[n, 3]` in mm, and the sum of weights, `[n]`."""
        offset = (self.places[self._b] - self.places[self._a]) * self.weights[:, None]
        number = len(self.places)
        total = np.bincount(self._a, self.weights, number) + np.bincount(self._b, self.weights, number)
        pull = np.stack(
            [np.bincount(self._a, offset[:, k], number) - np.bincount(self._b, offset[:, k], number) for k in range(3)], -1
        )
        return pull, total

    def shifts(self, first: int, second: int) -> np.ndarray:
        """Returns the offsets of the matches of two images, from the first to the second, `[n, 3]` (x, y, z) in mm."""
        mine = (self._images[0] == first) & (self._images[1] == second)
        found: np.ndarray = self.places[self._b[mine]] - self.places[self._a[mine]]
        return found

    def _broad(self) -> float:
        """Returns the scale of the distances of unrelated points: of each match's point to another match's, within `near`."""
        unrelated = self.places[self._a] - np.roll(self.places[self._b], 1 + len(self._b) // 2, axis=0)
        broad = float(np.sqrt((unrelated**2).sum(1).mean() / 3))
        if self._near:  # points within a ball have a mean squared distance of 3/5 of its squared radius to the middle
            broad = min(broad, self._near / math.sqrt(5))
        return max(broad, 2 * self._config.inlier_limits[0] + _SPARE)
