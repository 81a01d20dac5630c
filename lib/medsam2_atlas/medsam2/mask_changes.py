"""Decides which changes of a mask are accepted: thick, connected to a correction, and near it.

A network draws an organ's border slightly differently from a person, and may be wrong elsewhere on the slice. If its whole mask
replaced the current one, each correction would change other parts, too. A change is therefore accepted only if it is thicker
than differences of the border, and if it is connected to the correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class ChangeFilter:
    """The conditions on accepted changes.

    Attributes:
        thickness: a disk, bool `[y, x]`, that a change must contain somewhere.
        shift: a disk, bool `[y, x]`; a change lies within its radius of the change of the slice before.
    """

    thickness: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, thickness: float, slope: float, spacing: tuple[float, float, float]) -> ChangeFilter:
        """Returns the filter for a grid.

        Args:
            thickness: the min thickness of a change, in mm.
            slope: the max distance in the plane by which a change grows from slice to slice, per distance of the slices.
            spacing: the spacing (x, y, z) in mm.
        """
        return cls(_disk(thickness / 2, spacing), _disk(max(slope * spacing[2], *spacing[:2]), spacing))

    def at(self, change: Change, inside: np.ndarray, outside: np.ndarray) -> Change:
        """Returns the parts of a change that a person's points require.

        Args:
            change: the change from the current mask to the network's.
            inside: the pixels at points on the organ, bool `[y, x]`: additions that contain one are accepted.
            outside: the pixels at points outside of the organ, bool `[y, x]`: removals that contain one are accepted.
        """
        return Change(self._touching(change.added, inside), self._touching(change.removed, outside))

    def connected(self, change: Change, before: Change) -> Change:
        """Returns the parts of a change that continue the accepted change of the slice before it, in the same direction."""
        near = (ndimage.binary_dilation(part, self.shift) if part.any() else part for part in (before.added, before.removed))
        return self.at(
            Change(*(part & reach for part, reach in zip((change.added, change.removed), near, strict=True))),
            before.added,
            before.removed,
        )

    def _touching(self, part: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Returns the thick components, bool `[y, x]`, that touch the seeds; the filter does not round off their corners."""
        if not part.any() or not seeds.any():
            return np.zeros_like(part)
        pieces, count = ndimage.label(ndimage.binary_opening(part, self.thickness))
        kept = np.zeros(count + 1, bool)
        kept[pieces[ndimage.binary_dilation(seeds)]] = True
        kept[0] = False
        accepted: np.ndarray = ndimage.binary_dilation(kept[pieces], self.thickness) & part
        return accepted


def _disk(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Returns a disk, bool `[y, x]`, of a radius in mm; at least its central pixel."""
    sides = [int(radius / step) for step in (spacing[1], spacing[0])]
    rows, columns = np.ogrid[-sides[0] : sides[0] + 1, -sides[1] : sides[1] + 1]
    disk: np.ndarray = np.hypot(rows * spacing[1], columns * spacing[0]) <= radius
    return disk
