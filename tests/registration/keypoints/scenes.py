"""Images with blobs at known places, and matched points with known transforms, for tests of keypoints."""

from __future__ import annotations

import numpy as np
import torch

from medsam2_atlas.registration import WorkImage, registration_config
from medsam2_atlas.registration.keypoints import Keypoints

CONFIG = registration_config().keypoints
SPACING = 4.0


def body_with(
    blobs: list[tuple[tuple[float, float, float], float, float]], shape: tuple[int, int, int] = (50, 50, 50)
) -> WorkImage:
    """Returns a box of fat in air with Gaussian blobs.

    Args:
        blobs: the centre (x, y, z) in mm, the standard deviation in mm, and the height in HU of each blob.
        shape: the number of voxels (z, y, x).
    """
    hu = torch.full(shape, -1000.0)
    hu[:, 4:-4, 4:-4] = 0.0
    blank = WorkImage(hu, torch.ones(shape, dtype=torch.bool), torch.tensor([10.0, 20.0, 30.0]), SPACING)
    points = blank.points()
    for centre, size, height in blobs:
        distance = ((points - torch.tensor(centre)) ** 2).sum(-1)
        hu += height * torch.exp(-distance / (2 * size**2))
    return blank


def random_points(count: int, seed: int, size: float = 300.0) -> np.ndarray:
    """Returns points that are evenly distributed over a cube of `size` mm, `[count, 3]`."""
    return np.random.default_rng(seed).uniform(0, size, (count, 3))


def images_of(places: list[np.ndarray], outliers: float = 0.0, seed: int = 1) -> list[Keypoints]:
    """Returns keypoints of several images: number n of each image shows the same thing, except for outliers.

    Args:
        places: the points of each image, `[n, 3]` (x, y, z) in mm.
        outliers: the share of the points of each image that lie at a random place.
        seed: the seed of descriptors and outliers.
    """
    generator = np.random.default_rng(seed)
    count = len(places[0])
    descriptors = generator.normal(size=(count, 48))
    descriptors = np.rint(127 * descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.int8)
    images = []
    for points in places:
        wrong = generator.random(count) < outliers
        moved = np.where(wrong[:, None], generator.uniform(points.min(0), points.max(0), points.shape), points)
        images.append(
            Keypoints(moved.astype(np.float32), np.full(count, 8, np.float32), descriptors, np.arange(count) % 2 == 0)
        )
    return images


def box_of(points: np.ndarray) -> np.ndarray:
    """Returns the corners of the box around points `[n, 3]`, `[8, 3]`: (x, y, z) in mm."""
    lower, upper = points.min(0), points.max(0)
    return np.array(list(np.ndindex(2, 2, 2))) * (upper - lower) + lower
