"""Scans a synthetic patient: renders the CT and the label map on any voxel grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medsam2_atlas.demo.phantoms.anatomy import anatomy
from medsam2_atlas.demo.phantoms.frame import Part
from medsam2_atlas.demo.phantoms.patient import Patient
from medsam2_atlas.demo.phantoms.shapes import Field

_SLAB_POINTS = 100_000
"""Number of points painted together: a thin slab, which most parts do not reach into, and which fits into the CPU's cache."""


@dataclass(frozen=True)
class Scan:
    """The voxel grid of a scan.

    Attributes:
        size: voxels (x, y, z).
        spacing: spacing (x, y, z) in mm.
        origin: position (x, y, z) of the first voxel in mm, LPS.
        tilt: Euler angles (degrees) between the grid's and the patient's axes, for an oblique acquisition.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def direction(self) -> np.ndarray:
        """The grid's axes as columns of a matrix `[3, 3]`."""
        return np.asarray(Rotation.from_euler("xyz", self.tilt, degrees=True).as_matrix())


def render(patient: Patient, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Renders a patient on a grid.

    Edges have partial volumes, and slices thicker than 3.5 mm are averages of thinner ones. Quantum noise is smooth over about
    a voxel, as after a soft reconstruction kernel.

    Args:
        patient: the patient.
        scan: the grid.

    Returns:
        The CT `[z, y, x]` in HU, float32, and organ numbers `[z, y, x]`, uint8.
    """
    parts = anatomy(patient)
    rng = np.random.default_rng([patient.generator_seed, 1])
    bend = [Field(rng, amplitude, (110, 260), 4) for amplitude in (2.5, 2.5, 3.5)]
    texture = Field(rng, 3.0, (15, 60), 6)
    nx, ny, nz = scan.size
    thin = 3 if scan.spacing[2] > 3.5 else 1
    image = np.empty((nz, ny, nx), np.float32)
    label = np.empty((nz, ny, nx), np.uint8)
    step = max(1, _SLAB_POINTS // (nx * ny * thin))
    for first in range(0, nz, step):
        planes = np.arange(first, min(first + step, nz))
        heights = (planes[:, None] + (np.arange(thin) - thin // 2) / thin).ravel()
        points = _patient_points(patient, scan, heights, bend)
        voxel = np.array([*scan.spacing[:2], scan.spacing[2] / thin]).mean()
        hu, lab = _paint(parts, points, float(voxel))
        hu += np.where(hu > -300, texture(points), 0)
        shape = (len(planes), thin, ny, nx)
        image[planes] = hu.reshape(shape).mean(1)
        label[planes] = lab.reshape(shape)[:, thin // 2]
    return _acquire(image, scan, patient.noise, rng), label


def _patient_points(patient: Patient, scan: Scan, heights: np.ndarray, bend: list[Field]) -> np.ndarray:
    """Returns the grid's points on the given slices in the average adult's frame, `[n, 3]` (x, y, z) in mm."""
    nx, ny, _ = scan.size
    z, y, x = np.meshgrid(
        heights * scan.spacing[2], np.arange(ny) * scan.spacing[1], np.arange(nx) * scan.spacing[0], indexing="ij"
    )
    world = np.stack([x, y, z], -1).reshape(-1, 3) @ scan.direction.T + np.asarray(scan.origin)
    turn = Rotation.from_euler("xyz", patient.pose, degrees=True).as_matrix()
    p = world @ turn / np.asarray(patient.scale)
    curve = np.cos((p[:, 2] + 40) / 110)
    p[:, 1] += (patient.lordosis - 12) * 0.5 * curve
    p[:, 0] += patient.scoliosis * curve
    p = p.astype(np.float32)
    result: np.ndarray = p + np.stack([field(p) for field in bend], 1)
    return result


def _paint(parts: list[Part], points: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    hu = np.full(len(points), -1000, np.float32)
    label = np.zeros(len(points), np.uint8)
    lower, upper = points.min(0), points.max(0)
    for part in parts:
        reach = voxel + 4.0
        if np.any(part.solid.lower - reach > upper) or np.any(part.solid.upper + reach < lower):
            continue
        inside = np.ones(len(points), bool)
        for axis in range(3):
            if part.solid.lower[axis] - reach > lower[axis]:
                inside &= points[:, axis] > part.solid.lower[axis] - reach
            if part.solid.upper[axis] + reach < upper[axis]:
                inside &= points[:, axis] < part.solid.upper[axis] + reach
        near = np.flatnonzero(inside)
        if not len(near):
            continue
        share = np.clip(0.5 - part.solid.distance(points[near]) / voxel, 0, 1).astype(np.float32)
        hit = share > 0
        near, share = near[hit], share[hit]
        hu[near] += share * (part.hu - hu[near])
        if part.label is not None:
            label[near[share > 0.5]] = part.label
    return hu, label


def _acquire(image: np.ndarray, scan: Scan, noise: float, rng: np.random.Generator) -> np.ndarray:
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.6)
    sharp = [0.4 / s for s in scan.spacing[::-1]]
    image = ndimage.gaussian_filter(image, sharp) + grain * (noise / grain.std())
    result: np.ndarray = np.clip(image, -1024, 3071).round()
    return result
