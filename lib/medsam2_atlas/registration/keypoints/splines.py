"""Lattices of cubic B-splines: their values at points, and as displacement fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from medsam2_atlas.registration.transform import Displacement

_FINER = 8
"""Points of a field per lattice spacing, at most: linear interpolation between them errs by a few tenths of a millimetre."""


@dataclass(frozen=True)
class Lattice:
    """A regular lattice of control points in the common space.

    Attributes:
        lower: the lower corner of the box in which splines are complete, `[3]` (x, y, z) in mm.
        cells: the number of cells along each axis, (x, y, z). There are three more control points than cells.
        spacing: the spacing in mm.
    """

    lower: np.ndarray
    cells: np.ndarray
    spacing: float

    @classmethod
    def around(cls, lower: np.ndarray, upper: np.ndarray, spacing: float) -> Lattice:
        """Returns a lattice around the box from `lower` to `upper`, each `[3]` (x, y, z) in mm, centred on it."""
        cells = np.maximum(np.ceil((upper - lower) / spacing), 1).astype(int)
        return cls((lower + upper - cells * spacing) / 2, cells, spacing)

    @property
    def size(self) -> int:
        """The number of control points."""
        return int(np.prod(self.cells + 3))

    def basis(self, points: np.ndarray) -> sparse.csr_matrix:
        """Returns the weights of the control points at points.

        Args:
            points: `[n, 3]` (x, y, z) in mm; those outside the box get the weights of its border.

        Returns:
            A sparse matrix `[n, size]`, 64 weights of sum 1 in each row; the last axis of control points is x.
        """
        place = np.clip((points - self.lower) / self.spacing, 0, self.cells - 1e-9)
        first = np.floor(place).astype(int)
        along = _weights(place - first)
        x, y, z = (first[:, k, None] + np.arange(4) for k in range(3))
        nx, ny = self.cells[:2] + 3
        index = (z[:, :, None, None] * ny + y[:, None, :, None]) * nx + x[:, None, None, :]
        weights = along[:, 2, :, None, None] * along[:, 1, None, :, None] * along[:, 0, None, None, :]
        rows = np.arange(0, 64 * len(points) + 1, 64)
        return sparse.csr_matrix((weights.ravel(), index.ravel(), rows), shape=(len(points), self.size))

    def field(self, control: np.ndarray, spacing: float, lower: np.ndarray, upper: np.ndarray) -> Displacement:
        """Returns the displacement of control points as a field over a box.

        Args:
            control: displacements of the control points, `[size, 3]` (x, y, z) in mm.
            spacing: the min spacing of the field in mm.
            lower: the lower corner of the box, `[3]` (x, y, z) in mm.
            upper: the upper corner of the box, `[3]` (x, y, z) in mm.
        """
        spacing = max(spacing, self.spacing / _FINER)
        x, y, z = (self._along(axis, lower[axis], upper[axis], spacing) for axis in range(3))
        nx, ny, nz = self.cells + 3
        values = np.einsum("zk,kjic->zjic", z, control.reshape(nz, ny, nx, 3))
        values = np.einsum("yj,zjic->zyic", y, values)
        values = np.einsum("xi,zyic->czyx", x, values)
        return Displacement(
            torch.from_numpy(np.ascontiguousarray(values, np.float32)), torch.from_numpy(lower.astype(np.float32)), spacing
        )

    def _along(self, axis: int, start: float, stop: float, spacing: float) -> np.ndarray:
        """Returns the weights of control points along an axis, at points from `start` to `stop` mm: `[n, cells + 3]`."""
        cells = int(self.cells[axis])
        steps = start + np.arange(int(np.ceil((stop - start) / spacing)) + 1) * spacing
        place = np.clip((steps - self.lower[axis]) / self.spacing, 0, cells - 1e-9)
        first = np.floor(place).astype(int)
        weights = np.zeros((len(steps), cells + 3))
        np.put_along_axis(weights, first[:, None] + np.arange(4), _weights(place - first), axis=1)
        return weights


def _weights(t: np.ndarray) -> np.ndarray:
    """Returns the four cubic B-splines `[..., 4]` at positions `[...]` within a cell, 0..1."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1) / 6
