"""Descriptors of keypoints: sums of gradients in the cells around a point (3D SURF, after Bay et al., ECCV 2006)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.keypoints.keypoint import STEPS_PER_UNIT

_NO_GRADIENT = 1e-12


def describe(
    smooth: Sequence[np.ndarray], voxels: np.ndarray, levels: np.ndarray, scales: np.ndarray, config: KeypointConfig
) -> np.ndarray:
    """Returns the descriptors of points.

    A window around the point is divided into cells, whose size is proportional to the point's scale. Each cell has six values:
    the mean of the gradient's components, and of their absolute values. The window is not rotated, because patients lie alike.
    A Gaussian over the window reduces the weight of its border, and the descriptor is scaled to unit length.

    Args:
        smooth: the image `[z, y, x]`, smoothed at each scale.
        voxels: the points, `[n, 3]` (z, y, x) in voxels.
        levels: the index of the scale of each point, `[n]`.
        scales: the refined scale of each point in voxels, `[n]`.
        config: the settings of keypoints.

    Returns:
        `[n, d]` int8 with d = 6 cells³; `STEPS_PER_UNIT` stands for 1.
    """
    cells = config.cells
    axis = (np.arange(cells) - (cells - 1) / 2) * config.cell_size
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    spread = cells * config.cell_size / 2
    falloff = np.exp(-(grid**2).sum(1) / (2 * spread**2))
    values = np.zeros((len(voxels), len(grid), 6), np.float32)
    for level in np.unique(levels):
        mine = np.flatnonzero(levels == level)
        places = (voxels[mine, None] + grid * scales[mine, None, None]).reshape(-1, 3).T
        width = max(1, round(config.cell_size * float(np.median(scales[mine]))))
        for k, gradient in enumerate(np.gradient(smooth[level])):
            for part, field in enumerate((gradient, np.abs(gradient))):
                mean = ndimage.uniform_filter(field, width, mode="nearest")
                sampled = ndimage.map_coordinates(mean, places, order=1, mode="nearest", prefilter=False)
                values[mine, :, 3 * part + k] = sampled.reshape(len(mine), -1)
    values = (values * falloff[:, None]).reshape(len(voxels), -1)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.rint(values / np.maximum(length, _NO_GRADIENT) * STEPS_PER_UNIT).astype(np.int8)
