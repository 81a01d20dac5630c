"""What a line of the table in `table.py` is made of, and the CT and label map that all its files hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.imaging.volume import Geometry

Writer = Callable[[Path], Path]
"""Writes files into an empty folder; returns the path that a user would give, a file or a folder."""

SPACING, ORIGIN = (2.0, 2.5, 5.0), (-30.0, -50.0, 100.0)


def _body() -> tuple[np.ndarray, np.ndarray]:
    z, y, x = np.indices((12, 24, 32))
    inside = ((y - 12) / 10) ** 2 + ((x - 16) / 14) ** 2
    hu = np.full(z.shape, -1000, np.int16)
    hu[inside < 1] = -100
    hu[inside < 0.7] = 50
    hu[8, 10:14, 6:9] = 120
    hu += np.random.default_rng(0).integers(-15, 16, hu.shape, np.int16)  # so no two axes look alike
    labels = np.zeros(z.shape, np.uint8)
    labels[2:9, 6:14, 8:16] = 6
    labels[3:6, 10:13, 20:24] = 3
    return hu, labels


HU, LABELS = _body()
"""A body in air, `[z, y, x]`, HU; liver and left kidney as blocks, organ numbers."""
GRID = Geometry((32, 24, 12), SPACING, ORIGIN)
"""Where they lie: axial, LPS."""


ROUND = np.where(np.hypot(*(np.indices((12, 24, 32))[1:] - np.array([12, 16])[:, None, None, None])) < 15, HU, -2000)
"""The same CT in a round field of view, with padding outside of it."""
INSIDE = HU[:, 6:18, 5:27]
"""A crop inside the body."""


def image(array: np.ndarray = HU, spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = ORIGIN) -> sitk.Image:
    """An array `[z, y, x]` as an image on the grid of `HU`."""
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(spacing)
    result.SetOrigin(origin)
    return result


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of input.

    Attributes:
        what: the kind, as docs/inputs.md names it.
        write: writes a file of this kind that holds `HU`, or for a label map `LABELS`, on `GRID`.
        refused: words of the error with which it is refused; empty if it is read, and then voxels and grid must be right.
        told: words of a remark with which it is read; empty if there is no remark.
        holds: the CT's voxels, where they are not `HU`.
        away: largest distance (mm) of a corner from where it is; for files that do not give their places more exactly.
    """

    what: str
    write: Writer
    refused: str = ""
    told: str = ""
    holds: np.ndarray | None = None
    away: float = 1e-3

    @property
    def verdict(self) -> str:
        """What becomes of it, as docs/inputs.md says it."""
        if self.refused:
            return f"refused: “… {self.refused} …”"
        return f"read, with the remark “… {self.told} …”" if self.told else "read"

    def check(self, array: np.ndarray, grid: Geometry, truth: np.ndarray) -> None:
        """Asserts that an array on a grid is the truth, wherever its axes point."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in truth.shape), indexing="ij"), -1)[..., ::-1]
        corners = index[:: truth.shape[0] - 1, :: truth.shape[1] - 1, :: truth.shape[2] - 1]
        found = grid.to_index(GRID.to_world(corners))
        off = np.abs((found - np.rint(found)) * grid.spacing).max()
        assert off <= self.away, f"corners lie {off} mm from their places"
        x, y, z = np.moveaxis(np.rint(grid.to_index(GRID.to_world(index))).astype(int), -1, 0)
        assert array.shape == tuple(np.array([z.max(), y.max(), x.max()]) + 1)
        assert min(x.min(), y.min(), z.min()) == 0
        np.testing.assert_allclose(array[z, y, x], truth, atol=0.01)
