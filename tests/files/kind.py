"""Defines the lines of the table in `table.py`, and the CT and label map that all its files contain."""

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
    hu += np.random.default_rng(0).integers(-15, 16, hu.shape, np.int16)  # so that no two axes look the same
    labels = np.zeros(z.shape, np.uint8)
    labels[2:9, 6:14, 8:16] = 6
    labels[3:6, 10:13, 20:24] = 3
    return hu, labels


HU, LABELS = _body()
"""A body in air, `[z, y, x]` in HU; and blocks as liver and left kidney, `[z, y, x]` organ numbers."""
GRID = Geometry((32, 24, 12), SPACING, ORIGIN)
"""The grid of both: axial, LPS."""


ROUND = np.where(np.hypot(*(np.indices((12, 24, 32))[1:] - np.array([12, 16])[:, None, None, None])) < 15, HU, -2000)
"""The same CT with a round field of view, and padding outside of it."""
INSIDE = HU[:, 6:18, 5:27]
"""A crop inside the body."""


def image(array: np.ndarray = HU, spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = ORIGIN) -> sitk.Image:
    """Returns an array `[z, y, x]` as an image; on the grid of `HU` by default."""
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(spacing)
    result.SetOrigin(origin)
    return result


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of input.

    Attributes:
        what: the name of the kind in docs/inputs.md.
        write: writes a file of this kind that contains `HU`, or for a label map `LABELS`, on `GRID`.
        refused: words of the error; empty if the file is read, and then voxels and grid must be correct.
        remark: words of the remark with which the file is read; empty if there is no remark.
        voxels: the CT's voxels `[z, y, x]` if they are not `HU`.
        tolerance: max distance of a corner from its true position in mm, for files that give positions less exactly.
    """

    what: str
    write: Writer
    refused: str = ""
    remark: str = ""
    voxels: np.ndarray | None = None
    tolerance: float = 1e-3

    @property
    def verdict(self) -> str:
        """The result of reading the file, as docs/inputs.md shows it."""
        if self.refused:
            return f"refused: “… {self.refused} …”"
        return f"read, with the remark “… {self.remark} …”" if self.remark else "read"

    def check(self, array: np.ndarray, grid: Geometry, expected: np.ndarray) -> None:
        """Asserts that an array `[z, y, x]` on a grid equals the expected one on `GRID`, in any orientation."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in expected.shape), indexing="ij"), -1)[..., ::-1]
        corners = index[:: expected.shape[0] - 1, :: expected.shape[1] - 1, :: expected.shape[2] - 1]
        found = grid.to_index(GRID.to_world(corners))
        off = np.abs((found - np.rint(found)) * grid.spacing).max()
        assert off <= self.tolerance, f"corners are {off} mm from their true positions"
        x, y, z = np.moveaxis(np.rint(grid.to_index(GRID.to_world(index))).astype(int), -1, 0)
        assert array.shape == tuple(np.array([z.max(), y.max(), x.max()]) + 1)
        assert min(x.min(), y.min(), z.min()) == 0
        np.testing.assert_allclose(array[z, y, x], expected, atol=0.01)
