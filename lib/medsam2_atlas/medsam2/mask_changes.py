"""Decides which changes of a mask are accepted: connected, thick enough, and of the same direction as a person's correction.

A network draws an organ's border slightly differently from a person. If a whole result replaced the current mask, every
correction would also move the border elsewhere. A change is therefore accepted only if it is connected to the correction and
thicker than such differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Change:
    """The change of a slice's mask.

    Attributes:
        added: the added pixels, bool `[y, x]`.
        removed: the removed pixels, bool `[y, x]`.
    """

    added: np.ndarray
    removed: np.ndarray

    def __bool__(self) -> bool:
        return bool(self.added.any() or self.removed.any())

    @classmethod
    def between(cls, before: np.ndarray, after: np.ndarray) -> Change:
        """Returns the change from one mask to another, both bool `[y, x]`."""
        return cls(after & ~before, before & ~after)

    def applied(self, mask: np.ndarray) -> np.ndarray:
        """Returns a mask, bool `[y, x]`, with this change."""
        changed: np.ndarray = (mask | self.added) & ~self.removed
        return changed


@dataclass(frozen=True)
class Thickness:
    """The min thickness of a change, as a filter.

    Attributes:
        disk: bool `[y, x]`; a change must contain this shape somewhere.
    """

    disk: np.ndarray

    @classmethod
    def of(cls, millimetres: float, spacing: tuple[float, float]) -> Thickness:
        """Returns the filter for a min thickness.

        Args:
            millimetres: the min thickness in mm.
            spacing: the spacing (x, y) in mm.
        """
        radii = [int(millimetres / 2 / step) for step in reversed(spacing)]
        rows, columns = np.ogrid[-radii[0] : radii[0] + 1, -radii[1] : radii[1] + 1]
        return cls((rows * spacing[1]) ** 2 + (columns * spacing[0]) ** 2 <= (millimetres / 2) ** 2)

    def connected(self, difference: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Returns the thick components of a difference that touch the seeds.

        Args:
            difference: bool `[y, x]`.
            seeds: bool `[y, x]`, such as the accepted change of the slice beside it.

        Returns:
            bool `[y, x]`, a part of the difference. The filter does not round off its corners.
        """
        if not difference.any() or not seeds.any():
            return np.zeros_like(difference)
        thick = ndimage.binary_opening(difference, self.disk)
        pieces, _ = ndimage.label(thick)
        touched = np.setdiff1d(pieces[ndimage.binary_dilation(seeds)], [0])
        accepted: np.ndarray = ndimage.binary_dilation(np.isin(pieces, touched), self.disk) & difference
        return accepted
