"""Solids given by signed distances: ellipsoids, tubes along splines, and the ways to bend and join them.

Points are `[n, 3]` float arrays of (x, y, z) in mm in a patient's own frame (+x left, +y posterior, +z superior).
A distance is negative inside, positive outside, in mm, and exact enough near the surface to give partial volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Solid:
    """A signed distance and a box `(low, high)` outside of which the solid surely is not (mm)."""

    distance: Distance
    low: np.ndarray
    high: np.ndarray

    def without(self, other: Solid, gap: float = 0.0) -> Solid:
        """This solid with `other`, grown by `gap` mm, cut away."""
        return Solid(lambda p: np.maximum(self.distance(p), gap - other.distance(p)), self.low, self.high)

    def within(self, other: Solid, inset: float = 0.0) -> Solid:
        """The part of this solid that lies at least `inset` mm inside `other`."""
        return Solid(
            lambda p: np.maximum(self.distance(p), other.distance(p) + inset),
            np.maximum(self.low, other.low),
            np.minimum(self.high, other.high),
        )

    def grown(self, millimetres: float) -> Solid:
        """This solid with its surface moved outwards (inwards where negative)."""
        return Solid(lambda p: self.distance(p) - millimetres, self.low - millimetres, self.high + millimetres)

    def roughened(self, field: Field) -> Solid:
        """This solid with its surface moved by a smooth random field."""
        return Solid(lambda p: self.distance(p) + field(p), self.low - field.amplitude * 3, self.high + field.amplitude * 3)


class Field:
    """A smooth random scalar field: a sum of cosines, standard deviation `amplitude`, wavelengths in mm."""

    def __init__(
        self, generator: np.random.Generator, amplitude: float, wavelengths: tuple[float, float], waves: int = 5
    ) -> None:
        direction = generator.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = generator.uniform(*wavelengths, size=(waves, 1))
        self._frequency = (2 * np.pi * direction / length).astype(np.float32)
        self._phase = generator.uniform(0, 2 * np.pi, waves).astype(np.float32)
        self.amplitude = float(amplitude)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values `[n]` at points `[n, 3]`."""
        if self.amplitude == 0:
            return np.zeros(len(points), np.float32)
        waves = np.cos(points @ self._frequency.T + self._phase)
        result: np.ndarray = waves.sum(1) * (self.amplitude * np.sqrt(2 / len(self._phase)))
        return result


def ellipsoid(
    centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, rotation: Sequence[float] = (0.0, 0.0, 0.0)
) -> Solid:
    """An ellipsoid; `rotation` holds Euler angles about x, y and z in degrees."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    turn = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix().astype(np.float32)

    def distance(p: np.ndarray) -> np.ndarray:
        q = (p - c) @ turn  # world to own axes: the inverse rotation
        k0 = np.linalg.norm(q / r, axis=1)
        k1 = np.linalg.norm(q / (r * r), axis=1)
        result: np.ndarray = k0 * (k0 - 1) / np.maximum(k1, 1e-6)
        return result

    reach = np.sqrt(((turn * r) ** 2).sum(1))
    return Solid(distance, c - reach, c + reach)


def tube(control: np.ndarray, radii: Sequence[float] | np.ndarray, flatten: Sequence[float] = (1.0, 1.0, 1.0)) -> Solid:
    """A tube along a cubic spline through `control` `[k, 3]` with a radius at each control point.

    `flatten` scales the axes before distances are taken: (1, .8, 1) gives a tube 1/.8 as deep in y as it is wide.
    """
    control = np.asarray(control, float)
    scale = np.asarray(flatten, float)
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(control, axis=0), axis=1))])
    s = np.arange(0, steps[-1] + 1e-6, 1.5)
    line = CubicSpline(steps, control)(s)
    radius = np.interp(s, steps, np.asarray(radii, float))
    tree = cKDTree(line * scale)
    far = 8.0 + float(radius.max())  # no one asks for the exact distance of a point farther from the line than this

    def distance(p: np.ndarray) -> np.ndarray:
        d, nearest = tree.query(p * scale, distance_upper_bound=far)
        d, nearest = np.minimum(d, far), np.minimum(nearest, len(radius) - 1)
        result: np.ndarray = (d - radius[nearest]).astype(np.float32)
        return result

    margin = float(radius.max()) / float(scale.min())
    return Solid(distance, line.min(0) - margin, line.max(0) + margin)


def union(*solids: Solid, blend: float = 0.0) -> Solid:
    """All solids together; their joints are rounded over `blend` mm."""

    def distance(p: np.ndarray) -> np.ndarray:
        d = solids[0].distance(p)
        for other in solids[1:]:
            e = other.distance(p)
            h = np.maximum(blend - np.abs(d - e), 0) / blend if blend else 0
            d = np.minimum(d, e) - h * h * blend / 4
        return d

    low = np.minimum.reduce([s.low for s in solids])
    high = np.maximum.reduce([s.high for s in solids])
    return Solid(distance, low - blend, high + blend)


def slab(z_low: float, z_high: float) -> Solid:
    """All points with z between two heights."""
    infinite = 1e4
    return Solid(
        lambda p: np.maximum(z_low - p[:, 2], p[:, 2] - z_high),
        np.array([-infinite, -infinite, z_low]),
        np.array([infinite, infinite, z_high]),
    )
