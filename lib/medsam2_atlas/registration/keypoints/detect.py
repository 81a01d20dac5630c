"""Interest points: extrema of the Hessian's determinant over space and scale (3D SURF, after Bay et al., ECCV 2006)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medsam2_atlas.registration.keypoints.config import KeypointConfig
from medsam2_atlas.registration.keypoints.describe import describe
from medsam2_atlas.registration.keypoints.keypoint import Keypoints
from medsam2_atlas.registration.work_image import WorkImage

_NEIGHBOURS = np.array([(s, z, y, x) for s in (-1, 0, 1) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)])


def keypoints_of(image: WorkImage, config: KeypointConfig) -> Keypoints:
    """Finds the interest points of a CT inside its body, and describes their surroundings.

    At each scale, the image is smoothed by a Gaussian, and the determinant of its Hessian is multiplied by the sixth power of
    the scale in voxels. An interest point is a voxel at which its absolute value is larger than at the 80 neighbours in space
    and scale. A quadratic fit to the neighbours refines position and scale (Brown and Lowe, BMVC 2002).

    Args:
        image: the CT on its working grid.
        config: the settings of keypoints.

    Returns:
        The points, the strongest first; none if the image has no structure.
    """
    lower, upper = config.window
    hu = np.where(image.body.numpy(), image.hu.numpy(), lower)
    unit = ((np.clip(hu, lower, upper) - lower) / (upper - lower)).astype(np.float32)
    smooth = [ndimage.gaussian_filter(unit, scale / image.spacing, mode="nearest", truncate=3.0) for scale in config.scales]
    determinants, laplacians = zip(*map(_hessian, smooth, [s / image.spacing for s in config.scales]), strict=True)
    responses = np.abs(np.stack(determinants))
    found = _maxima(responses, image, config)
    if not len(found):
        size = 6 * config.cells**3
        return Keypoints(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros((0, size), np.int8), np.zeros(0, bool))
    exact = found + _refinement(responses, found)
    level = exact[:, 0]
    scales = np.exp(np.interp(level, np.arange(len(config.scales)), np.log(config.scales))).astype(np.float32)
    origin = image.origin.numpy().astype(np.float64)
    points = (origin + exact[:, :0:-1] * image.spacing).astype(np.float32)
    bright = np.stack(laplacians)[tuple(found.T)] < 0
    descriptors = describe(smooth, exact[:, 1:], found[:, 0], scales / image.spacing, config)
    return Keypoints(points, scales, descriptors, bright)


def _hessian(smooth: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale-normalised determinant and the trace of the Hessian of a smoothed image, each `[z, y, x]`.

    `scale` is in voxels. The derivatives are central differences, which suffice for an image that is smooth at this scale.
    """
    gradient = np.gradient(smooth)
    zz, zy, zx = np.gradient(gradient[0])
    _, yy, yx = np.gradient(gradient[1])
    xx = np.gradient(gradient[2], axis=2)
    determinant = zz * (yy * xx - yx**2) - zy * (zy * xx - yx * zx) + zx * (zy * yx - yy * zx)
    return determinant * scale**6, zz + yy + xx


def _maxima(responses: np.ndarray, image: WorkImage, config: KeypointConfig) -> np.ndarray:
    """Returns the strongest maxima over space and scale inside the body and the scan.

    Args:
        responses: `[level, z, y, x]`.
        image: the image.
        config: the settings of keypoints.

    Returns:
        (level, z, y, x) of each, `[n, 4]` int, the strongest first.
    """
    highest = ndimage.maximum_filter(responses, 3, mode="nearest")
    peak = (responses == highest) & (responses > config.min_response)
    peak[[0, -1]] = False
    peak[:, [0, -1]], peak[:, :, [0, -1]], peak[:, :, :, [0, -1]] = False, False, False
    peak &= image.body.numpy()
    inside = ndimage.distance_transform_edt(np.pad(image.valid.numpy(), 1)) if not image.valid.all() else None
    found = np.argwhere(peak)
    if not len(found):
        return found
    margins = np.array(config.scales)[found[:, 0]] * config.border / image.spacing
    ends = np.minimum(found[:, 1:], np.array(responses.shape[1:]) - 1 - found[:, 1:]).min(1)
    near = ends < margins
    if inside is not None:
        near |= inside[tuple((found[:, 1:] + 1).T)] < margins
    found = found[~near]
    strength = responses[tuple(found.T)]
    order = np.lexsort((*found.T[::-1], -strength))[: config.max_points]  # ties are ordered by position: deterministic
    return found[order]


def _refinement(responses: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the offset `[n, 4]` of each maximum of a quadratic fit, in levels and voxels; at most half a step."""
    around = responses[tuple((found[:, None, :] + _NEIGHBOURS).transpose(2, 0, 1))].reshape(-1, 3, 3, 3, 3)
    around = around.astype(np.float64)
    middle = around[:, 1, 1, 1, 1]
    gradient, hessian = np.zeros((len(found), 4)), np.zeros((len(found), 4, 4))

    def at(**steps: int) -> np.ndarray:
        values: np.ndarray = around[(slice(None), *(1 + steps.get(axis, 0) for axis in "szyx"))]
        return values

    for i, a in enumerate("szyx"):
        gradient[:, i] = (at(**{a: 1}) - at(**{a: -1})) / 2
        hessian[:, i, i] = at(**{a: 1}) + at(**{a: -1}) - 2 * middle
        for j, b in enumerate("szyx"[:i]):
            mixed = at(**{a: 1, b: 1}) + at(**{a: -1, b: -1}) - at(**{a: 1, b: -1}) - at(**{a: -1, b: 1})
            hessian[:, i, j] = hessian[:, j, i] = mixed / 4
    flat = np.abs(np.linalg.det(hessian)) < 1e-12 * np.abs(middle) ** 4
    hessian[flat] = -np.eye(4)
    gradient[flat] = 0
    offset = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return np.clip(offset, -0.5, 0.5)
