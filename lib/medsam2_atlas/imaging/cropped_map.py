"""A map of values that is kept only where it is not 0: the one place for the arithmetic of boxes on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from medsam2_atlas.imaging.masks import occupied

C = TypeVar("C", bound="CroppedMap")

Box = tuple[slice, ...]
"""A part of a grid: one slice per axis (z, y, x), with start and stop."""


@dataclass(frozen=True)
class CroppedMap:
    """Values over a part of a grid, such as probabilities of an organ; 0 everywhere else.

    values: `[z, y, x]` uint8, 255 = 1. lower: (z, y, x) of the first voxel on the grid.
    """

    values: np.ndarray
    lower: tuple[int, int, int]

    @property
    def maximum(self) -> float:
        """Returns the highest value, 0..1."""
        return float(self.values.max(initial=0)) / 255

    @property
    def spans(self) -> Box:
        """Returns the part of the grid that the map covers."""
        return tuple(slice(first, first + n) for first, n in zip(self.lower, self.values.shape, strict=True))

    def part(self, box: Box) -> np.ndarray:
        """Returns the values, of their own type, over a part of the grid; 0 where the map does not reach."""
        result = np.zeros(shape_of(box), self.values.dtype)
        starts = [max(own.start, span.start) for own, span in zip(self.spans, box, strict=True)]
        stops = [max(a, min(own.stop, span.stop)) for a, own, span in zip(starts, self.spans, box, strict=True)]
        common = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
        result[within(box, common)] = self.values[within(self.spans, common)]
        return result

    def over(self, box: Box) -> np.ndarray:
        """Returns probabilities float32, 0..1, over a part of the grid; 0 where the map does not reach."""
        result: np.ndarray = self.part(box) / np.float32(255)
        return result

    def placed(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the values over a whole grid of that shape; what lies outside of it is left out."""
        return self.part(tuple(slice(0, n) for n in shape))

    def cropped(self: C) -> C:
        """Returns the same map without the slices, rows and columns at its ends that hold nothing but 0."""
        box = occupied(self.values)
        if box is None:
            return replace(self, values=np.zeros((0, 0, 0), np.uint8), lower=(0, 0, 0))
        return replace(self, values=np.ascontiguousarray(self.values[box]), lower=lower_corner(nested(self.spans, box)))

    def moved(self: C, shift: Sequence[int] | np.ndarray, shape: tuple[int, ...]) -> C:
        """Returns the map moved by whole voxels (z, y, x), without what leaves a grid of that shape.

        A map that would leave it wholly stays where it is.
        """
        low = np.add(self.lower, shift)
        first = np.maximum(0, -low)
        last = np.minimum(self.values.shape, np.array(shape) - low)
        if (last <= first).any():
            return self
        kept = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        z, y, x = (int(v) for v in low + first)
        return replace(self, values=self.values[kept], lower=(z, y, x))


def around(maps: Sequence[CroppedMap], margin: np.ndarray, shape: tuple[int, ...]) -> Box:
    """Returns the part of a grid of `shape` that holds all maps and `margin` (z, y, x) voxels around them."""
    wide = np.ceil(margin).astype(int)
    low = np.min([each.lower for each in maps], 0) - wide
    high = np.max([np.add(each.lower, each.values.shape) for each in maps], 0) + wide
    return tuple(slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, shape, strict=True))


def nested(box: Box, part: Box) -> Box:
    """Returns the part of the grid that is `part` of what `box` holds."""
    return tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))


def within(box: Box, part: Box) -> Box:
    """Returns a part of the grid as a part of what `box` holds; `nested` undoes it."""
    return tuple(slice(p.start - b.start, p.stop - b.start) for b, p in zip(box, part, strict=True))


def lower_corner(box: Box) -> tuple[int, int, int]:
    """Returns the first voxel (z, y, x) of a part of a grid."""
    z, y, x = (span.start for span in box)
    return z, y, x


def shape_of(box: Box) -> tuple[int, ...]:
    """Returns the numbers of voxels (z, y, x) of a part of a grid."""
    return tuple(span.stop - span.start for span in box)
