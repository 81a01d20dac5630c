"""A map that stores only the box that contains its nonzero values, and the arithmetic of boxes on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from medsam2_atlas.imaging.masks import occupied

C = TypeVar("C", bound="CroppedMap")

Box = tuple[slice, ...]
"""A box on a grid, in voxels: one slice per axis (z, y, x), with start and stop."""


@dataclass(frozen=True)
class CroppedMap:
    """Values in a box of a grid, such as probabilities of an organ; 0 everywhere else.

    Attributes:
        values: values in the box, `[z, y, x]` uint8; 255 stands for 1.
        lower: the box's first voxel on the grid, (z, y, x).
    """

    values: np.ndarray
    lower: tuple[int, int, int]

    @property
    def maximum(self) -> float:
        """The highest value, 0..1."""
        return float(self.values.max(initial=0)) / 255

    @property
    def spans(self) -> Box:
        """The box of the grid that contains the values."""
        return tuple(slice(first, first + n) for first, n in zip(self.lower, self.values.shape, strict=True))

    def part(self, box: Box) -> np.ndarray:
        """Returns the values in any box of the grid, `[z, y, x]` in their own type; 0 outside of the map's box."""
        result = np.zeros(shape_of(box), self.values.dtype)
        starts = [max(own.start, span.start) for own, span in zip(self.spans, box, strict=True)]
        stops = [max(a, min(own.stop, span.stop)) for a, own, span in zip(starts, self.spans, box, strict=True)]
        common = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
        result[within(box, common)] = self.values[within(self.spans, common)]
        return result

    def probabilities(self, box: Box) -> np.ndarray:
        """Returns probabilities in any box of the grid, `[z, y, x]` float32, 0..1; 0 outside of the map's box."""
        result: np.ndarray = self.part(box) / np.float32(255)
        return result

    def uncropped(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the values on a whole grid of shape (z, y, x), as `[z, y, x]`; values outside of the grid are dropped."""
        return self.part(tuple(slice(0, n) for n in shape))

    def cropped(self: C) -> C:
        """Returns the same map without slices, rows and columns at its ends that are 0."""
        box = occupied(self.values)
        if box is None:
            return replace(self, values=np.zeros((0, 0, 0), np.uint8), lower=(0, 0, 0))
        return replace(self, values=np.ascontiguousarray(self.values[box]), lower=lower_corner(nested(self.spans, box)))

    def moved(self: C, shift: Sequence[int] | np.ndarray, shape: tuple[int, ...]) -> C:
        """Returns the map moved by whole voxels; values that leave the grid are dropped.

        Args:
            shift: voxels along (z, y, x). If the whole map would leave the grid, it is not moved.
            shape: shape of the grid, (z, y, x).
        """
        lower = np.add(self.lower, shift)
        first = np.maximum(0, -lower)
        last = np.minimum(self.values.shape, np.array(shape) - lower)
        if (last <= first).any():
            return self
        kept = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        z, y, x = (int(v) for v in lower + first)
        return replace(self, values=self.values[kept], lower=(z, y, x))


def box_around(maps: Sequence[CroppedMap], margin: np.ndarray, shape: tuple[int, ...]) -> Box:
    """Returns the smallest box of a grid that contains all maps and a margin around them.

    Args:
        maps: maps on the grid.
        margin: voxels along (z, y, x), `[3]`.
        shape: shape of the grid, (z, y, x).
    """
    wide = np.ceil(margin).astype(int)
    lower = np.min([each.lower for each in maps], 0) - wide
    upper = np.max([np.add(each.lower, each.values.shape) for each in maps], 0) + wide
    return tuple(slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(lower, upper, shape, strict=True))


def nested(box: Box, part: Box) -> Box:
    """Returns a box on the grid from its position inside another box.

    Args:
        box: a box on the grid.
        part: a box in voxels of `box`, counted from its first voxel.

    >>> nested((slice(10, 20),), (slice(2, 5),))
    (slice(12, 15, None),)
    """
    return tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))


def within(box: Box, part: Box) -> Box:
    """Returns the position of a box on the grid inside another box; the inverse of `nested`.

    Args:
        box: a box on the grid.
        part: another box on the grid.
    """
    return tuple(slice(p.start - b.start, p.stop - b.start) for b, p in zip(box, part, strict=True))


def lower_corner(box: Box) -> tuple[int, int, int]:
    """Returns the first voxel (z, y, x) of a box."""
    z, y, x = (span.start for span in box)
    return z, y, x


def shape_of(box: Box) -> tuple[int, ...]:
    """Returns the shape (z, y, x) of an array for a box, in voxels."""
    return tuple(span.stop - span.start for span in box)
