"""The linear stage: a translation and a scaling along each axis for each image, without a reference image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from medsam2_atlas.registration.keypoints.bundle import Bundle
from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.transform import Affine

_TRUST_ROUNDS = 10
"""Rounds in which shifts of pairs that contradict the others lose their weight."""


@dataclass(frozen=True)
class Scaling:
    """The map x → scale · x + shift, for each axis.

    Attributes:
        scale: `[3]` for (x, y, z).
        shift: `[3]` (x, y, z) in mm.
    """

    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Maps points `[n, 3]` (x, y, z) in mm to points of the same shape."""
        return points * self.scale + self.shift

    def as_affine(self) -> Affine:
        """Returns the same map for tensors."""
        return Affine(torch.diag(torch.from_numpy(self.scale).float()), torch.from_numpy(self.shift).float())


def first_shifts(bundle: Bundle, config: KeypointConfig) -> list[np.ndarray]:
    """Returns a translation of each image, `[3]` (x, y, z) in mm, by which most matches come near each other.

    For each pair of images, the shift that most matches support is found. The translations are the weighted least-squares
    solution of all pairs; pairs that contradict the others lose their weight. Images that do not move get no translation.

    Args:
        bundle: the matches of all images.
        config: the radius of the search.
    """
    number = len(bundle.parts)
    rows, wanted, support = [], [], []
    for first in range(number):
        for second in range(first + 1, number):
            shifts = bundle.shifts(first, second)
            if len(shifts):
                shift, votes = _mode(shifts, config.vote_radius)
                row = np.zeros(number)
                row[first], row[second] = 1, -1
                rows.append(row)
                wanted.append(shift)
                support.append(votes)
    found = np.zeros((number, 3))
    moving = list(bundle.moving)
    if not rows or not moving:
        return list(found)
    matrix, target, votes_ = np.array(rows)[:, moving], np.array(wanted), np.array(support, float) ** 2
    trust = np.ones(len(matrix))
    for _ in range(_TRUST_ROUNDS):
        root = np.sqrt(votes_ * trust)[:, None]
        solution, *_rest = np.linalg.lstsq(matrix * root, target * root, rcond=None)  # of min norm: the mean is zero
        error = np.linalg.norm(matrix @ solution - target, axis=1)
        trust = 1 / (1 + (error / config.vote_radius) ** 2) ** 2
    found[moving] = solution
    return list(found)


def _mode(shifts: np.ndarray, radius: float) -> tuple[np.ndarray, int]:
    """Returns the mean of the shifts around the one with the most others within `radius` mm, and their number."""
    tree = cKDTree(shifts)
    neighbours = tree.query_ball_point(shifts, radius, return_length=True)
    middle = shifts[int(np.argmax(neighbours))]
    for _ in range(3):
        near = np.linalg.norm(shifts - middle, axis=1) <= radius
        middle = shifts[near].mean(0)
    return middle, int(near.sum())


def fit_scalings(bundle: Bundle, start: list[Scaling], points: list[np.ndarray], config: KeypointConfig) -> list[Scaling]:
    """Fits the scaling of each moving image to the matches; the weights of matches are estimated meanwhile.

    In turn, each image gets the weighted least-squares fit to the points that its points are matched with. If all images move,
    their mean scale is then held at 1 and their mean shift at 0.

    Args:
        bundle: the matches; its places are changed.
        start: the first scaling of each image.
        points: the points of each image before the scaling, `[n, 3]` (x, y, z) in mm.
        config: the number of iterations, and the limits of scalings.
    """
    found = list(start)
    for number, scaling in enumerate(found):
        bundle.places[bundle.parts[number]] = scaling(points[number])
    for iteration in range(config.linear_iterations):
        if iteration % config.weigh_every == 0:
            bundle.weigh(hard=False)
        before = bundle.places.copy()
        for number in bundle.moving:
            part = bundle.parts[number]
            pull, weight = (values[part] for values in bundle.pulls())
            found[number] = _fitted(points[number], bundle.places[part], pull, weight, config)
            bundle.places[part] = found[number](points[number])
        if len(bundle.moving) == len(bundle.parts):
            found = _centred(found)
            for number, scaling in enumerate(found):
                bundle.places[bundle.parts[number]] = scaling(points[number])
        if np.abs(bundle.places - before).max(initial=0) < 0.01:
            break
    return found


def _fitted(points: np.ndarray, places: np.ndarray, pull: np.ndarray, weight: np.ndarray, config: KeypointConfig) -> Scaling:
    """Returns the scaling of an image whose points should move from `places` by `pull / weight`."""
    total = weight.sum()
    if total <= 0:
        return Scaling(np.ones(3), (places - points).mean(0) if len(points) else np.zeros(3))
    aims = places * weight[:, None] + pull  # weighted sums of the places to reach
    middle, aim = weight @ points / total, aims.sum(0) / total
    centred = points - middle
    spread = weight @ centred**2
    together = (centred * (aims - aim * weight[:, None])).sum(0)
    scale = np.clip((together + config.scale_prior) / (spread + config.scale_prior), *config.scale_limits)
    return Scaling(scale, aim - scale * middle)


def _centred(scalings: list[Scaling]) -> list[Scaling]:
    scale = np.mean([s.scale for s in scalings], axis=0)
    shift = np.mean([s.shift for s in scalings], axis=0)
    return [Scaling(s.scale / scale, (s.shift - shift) / scale) for s in scalings]
