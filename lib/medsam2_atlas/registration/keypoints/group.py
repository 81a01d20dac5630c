"""Registers keypoints of a group to a common space, and further images to a finished group (FROG, Agier et al. 2020).

Each image gets a half transform to the common space. No image is the reference: the displacements' mean over the images is
zero. The method was built from the paper "Hubless keypoint-based 3D deformable groupwise registration", Medical Image Analysis
59 (2020) 101564.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.registration.keypoints.bundle import Bundle
from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.keypoints.keypoint import Keypoints, Landmarks
from medsam2_atlas.registration.keypoints.linear import Scaling, first_shifts, fit_scalings
from medsam2_atlas.registration.keypoints.matching import Matches, match
from medsam2_atlas.registration.keypoints.splines import Lattice
from medsam2_atlas.registration.transform import Map, Transform

_FIELD_SPACING = 1.5
"""Min spacing of a field, in working spacings: splines on the finest lattice are smooth enough for it."""


class FewMatchesError(Exception):
    """The error of an image that has too few matches with the others.

    Attributes:
        number: the index of the image.
        matches: the number of its matches without outliers.
    """

    def __init__(self, number: int, matches: int) -> None:
        self.number, self.matches = number, matches
        super().__init__(f"image {number} has only {matches} matches")


def register_group(
    images: Sequence[Keypoints],
    boxes: Sequence[np.ndarray],
    spacing: float,
    config: KeypointConfig,
    progress: Progress = silent,
) -> list[Transform]:
    """Returns the half transform of each image, from its world points to those of the common space.

    Args:
        images: the keypoints of each image.
        boxes: the corners of each image, `[8, 3]` (x, y, z) in mm.
        spacing: the working spacing in mm.
        config: the settings of keypoints.
        progress: called with the fraction completed.

    Raises:
        FewMatchesError: an image has fewer matches than `min_matches`. A single image needs none; it does not move.
    """
    if len(images) == 1:
        return [Transform((Scaling(np.ones(3), np.zeros(3)).as_affine(),))]
    return _registered(images, boxes, range(len(images)), spacing, config, progress)


def join_group(
    image: Keypoints,
    box: np.ndarray,
    group: Landmarks,
    spacing: float,
    config: KeypointConfig,
    progress: Progress = silent,
) -> Transform:
    """Returns the half transform of an image that joins a finished group, whose images do not move.

    Args:
        image: the keypoints of the image.
        box: its corners, `[8, 3]` (x, y, z) in mm.
        group: the keypoints of the group in its common space.
        spacing: the working spacing in mm.
        config: the settings of keypoints.
        progress: called with the fraction completed.

    Raises:
        FewMatchesError: the image has fewer matches than `min_matches`.
    """
    return _registered([image, *group.images], [box], (0,), spacing, config, progress)[0]


def _registered(
    images: Sequence[Keypoints],
    boxes: Sequence[np.ndarray],
    moving: Sequence[int],
    spacing: float,
    config: KeypointConfig,
    progress: Progress,
) -> list[Transform]:
    """Returns the half transforms of the images that move, which come first."""
    pairs = [pair for pair in combinations(range(len(images)), 2) if pair[0] in moving]
    points = [image.points.astype(np.float64) for image in images]

    def bundle_of(now: Sequence[Keypoints], near: float) -> Bundle:
        found = [Matches(i, j, *match(now[i], now[j], config, near=near)) for i, j in pairs]
        return Bundle(points, found, moving, config, near)

    bundle = bundle_of(images, 0.0)
    progress("registration", 0.3)
    scalings = [Scaling(np.ones(3), shift) for shift in first_shifts(bundle, config)]
    scalings = fit_scalings(bundle, scalings, points, config)
    if config.max_offset:
        moved = [image.moved(s.as_affine()) for image, s in zip(images, scalings, strict=True)]
        bundle = bundle_of(moved, config.max_offset)
        scalings = fit_scalings(bundle, scalings, points, config)
    bundle.weigh()
    counts = bundle.counts()
    for number in moving:
        if counts[number] < config.min_matches:
            raise FewMatchesError(number, int(counts[number]))
    progress("registration", 0.6)
    corners = [scalings[number](boxes[number]) for number in moving]
    spans = np.array([(c.min(0), c.max(0)) for c in corners])
    maps: list[list[Map]] = [[scalings[number].as_affine()] for number in moving]
    for level in range(config.levels):
        lattice = Lattice.around(spans[:, 0].min(0), spans[:, 1].max(0), config.grid / 2**level)
        for steps, control, span in zip(maps, _level(bundle, lattice, config), spans, strict=True):
            steps.append(lattice.field(control, _FIELD_SPACING * spacing, *span))
        margin = config.max_shift * lattice.spacing
        spans += np.array([[-margin], [margin]])
        progress("registration", 0.6 + 0.4 * (level + 1) / config.levels)
    return [Transform(tuple(steps)) for steps in maps]


def _level(bundle: Bundle, lattice: Lattice, config: KeypointConfig) -> np.ndarray:
    """Moves the points of a bundle by splines on one lattice.

    Returns:
        The displacements of the control points of each moving image, `[images, size, 3]` (x, y, z) in mm.
    """
    starts = {number: bundle.places[bundle.parts[number]].copy() for number in bundle.moving}
    bases = {number: lattice.basis(start) for number, start in starts.items()}
    transposed = {number: basis.T.tocsr() for number, basis in bases.items()}
    control = np.zeros((len(bundle.moving), lattice.size, 3))
    whole = len(bundle.moving) == len(bundle.parts)
    limit = config.max_shift * lattice.spacing
    for step in range(config.iterations):
        if step % config.weigh_every == 0:
            bundle.weigh()
        pull, weight = bundle.pulls()
        for place, number in enumerate(bundle.moving):
            part = bundle.parts[number]
            around = transposed[number] @ weight[part]
            control[place] += config.rate * (transposed[number] @ pull[part]) / (around + config.support)[:, None]
        if whole:
            control -= control.mean(0)
        # One factor for all images keeps their mean at zero.
        control *= np.minimum(1, limit / np.maximum(np.abs(control).max(0), 1e-9))
        for place, number in enumerate(bundle.moving):
            bundle.places[bundle.parts[number]] = starts[number] + bases[number] @ control[place]
    return control
