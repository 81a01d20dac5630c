"""Solids defined by signed distances: ellipsoids, tubes along splines, and functions that deform and combine them.

Points are float arrays `[n, 3]` of (x, y, z) in mm in a patient's own frame (+x left, +y posterior, +z superior). Distances are
arrays `[n]` in mm, negative inside and positive outside, and exact enough near the surface for partial volumes.
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
    """A solid.

    Attributes:
        distance: maps points `[n, 3]` to signed distances `[n]` in mm.
        lower: lower corner `[3]` (x, y, z) of a box that contains the solid, in mm.
        upper: upper corner `[3]` of that box, in mm.
    """

    distance: Distance
    lower: np.ndarray
    upper: np.ndarray

    def without(self, other: Solid, gap: float = 0.0) -> Solid:
        """Returns this solid minus `other`, which is grown by `gap` mm before."""
        return Solid(lambda p: np.maximum(self.distance(p), gap - other.distance(p)), self.lower, self.upper)

    def within(self, other: Solid, inset: float = 0.0) -> Solid:
        """Returns the part of this solid that is at least `inset` mm inside `other`."""
        return Solid(
            lambda p: np.maximum(self.distance(p), other.distance(p) + inset),
            np.maximum(self.lower, other.lower),
            np.minimum(self.upper, other.upper),
        )

    def grown(self, millimetres: float) -> Solid:
        """Returns this solid with its surface moved outwards, or inwards if negative."""
        return Solid(lambda p: self.distance(p) - millimetres, self.lower - millimetres, self.upper + millimetres)

    def roughened(self, field: Field) -> Solid:
        """Returns this solid with its surface moved by a smooth random field, in mm."""
        return Solid(lambda p: self.distance(p) + field(p), self.lower - field.amplitude * 3, self.upper + field.amplitude * 3)


class Field:
    """A smooth random scalar field: a sum of cosines with standard deviation `amplitude` and `wavelengths` in mm."""

    def __init__(
        self, generator: np.random.Generator, amplitude: float, wavelengths: tuple[float, float], waves: int = 5
    ) -> None:
        """Draws a random field.

        Args:
            generator: random generator.
            amplitude: standard deviation of the values.
            wavelengths: min and max wavelength, in mm.
            waves: number of cosines.
        """
        direction = generator.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = generator.uniform(*wavelengths, size=(waves, 1))
        self._frequency = (2 * np.pi * direction / length).astype(np.float32)
        self._phase = generator.uniform(0, 2 * np.pi, waves).astype(np.float32)
        self.amplitude = float(amplitude)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Returns the values `[n]` at points `[n, 3]` (x, y, z) in mm."""
        if self.amplitude == 0:
            return np.zeros(len(points), np.float32)
        waves = np.cos(points @ self._frequency.T + self._phase)
        result: np.ndarray = waves.sum(1) * (self.amplitude * np.sqrt(2 / len(self._phase)))
        return result


def ellipsoid(
    centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, rotation: Sequence[float] = (0.0, 0.0, 0.0)
) -> Solid:
    """Returns an ellipsoid.

    Args:
        centre: centre `[3]` (x, y, z) in mm.
        radii: radii `[3]` in mm.
        rotation: Euler angles about x, y and z, in degrees.

    >>> ball = ellipsoid((0, 0, 0), (10, 10, 10))
    >>> ball.distance(np.array([[0.0, 0.0, 12.0]], np.float32)).round(3).tolist()
    [2.0]
    """
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
    """Returns a tube along a cubic spline.

    Args:
        control: control points `[k, 3]` (x, y, z) of the spline, in mm.
        radii: radii `[k]` at the control points, in mm.
        flatten: factors of the axes before distances are computed; (1, .8, 1) makes a tube 1/.8 times as deep in y as wide.
    """
    control = np.asarray(control, float)
    scale = np.asarray(flatten, float)
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(control, axis=0), axis=1))])
    s = np.arange(0, steps[-1] + 1e-6, 1.5)
    line = CubicSpline(steps, control)(s)
    radius = np.interp(s, steps, np.asarray(radii, float))
    tree = cKDTree(line * scale)
    far = 8.0 + float(radius.max())  # exact distances are not needed for points farther from the line

    def distance(p: np.ndarray) -> np.ndarray:
        d, nearest = tree.query(p * scale, distance_upper_bound=far)
        d, nearest = np.minimum(d, far), np.minimum(nearest, len(radius) - 1)
        result: np.ndarray = (d - radius[nearest]).astype(np.float32)
        return result

    margin = float(radius.max()) / float(scale.min())
    return Solid(distance, line.min(0) - margin, line.max(0) + margin)


def union(*solids: Solid, blend: float = 0.0) -> Solid:
    """Returns the union of solids; the edges between them are rounded over `blend` mm."""

    def distance(p: np.ndarray) -> np.ndarray:
        d = solids[0].distance(p)
        for other in solids[1:]:
            e = other.distance(p)
            h = np.maximum(blend - np.abs(d - e), 0) / blend if blend else 0
            d = np.minimum(d, e) - h * h * blend / 4
        return d

    lower = np.minimum.reduce([s.lower for s in solids])
    upper = np.maximum.reduce([s.upper for s in solids])
    return Solid(distance, lower - blend, upper + blend)


def slab(z_min: float, z_max: float) -> Solid:
    """Returns the solid of all points with z between `z_min` and `z_max` mm."""
    infinite = 1e4
    return Solid(
        lambda p: np.maximum(z_min - p[:, 2], p[:, 2] - z_max),
        np.array([-infinite, -infinite, z_min]),
        np.array([infinite, infinite, z_max]),
    )
