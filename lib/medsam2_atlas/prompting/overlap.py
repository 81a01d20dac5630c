"""Compares the prompts of two passes, to find organs that a second pass need not repeat."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.imaging.masks import box_overlap
from medsam2_atlas.prompting.prompt import Box, OrganPrompt, Prompts


def unmoved(before: Prompts, after: Prompts, min_overlap: float) -> frozenset[int]:
    """Returns the organs whose boxes and z-range are about the same in both passes.

    An organ has moved if a box, or the z-range, overlaps with that of the other pass by less than an IoU.
    Boxes correspond by their order along z; organs with different numbers of boxes have moved.

    Args:
        before: the prompts of the first pass.
        after: the prompts from the first pass's masks, not enlarged.
        min_overlap: the min IoU, 0..1.
    """
    known = {prompt.label: prompt for prompt in before.prompts}
    return frozenset(
        prompt.label
        for prompt in after.prompts
        if prompt.label in known and overlap(known[prompt.label], prompt) >= min_overlap
    )


def overlap(one: OrganPrompt, other: OrganPrompt) -> float:
    """Returns the smallest IoU of two prompts' z-ranges and corresponding boxes; 0 with different numbers of boxes."""
    if len(one.boxes) != len(other.boxes):
        return 0.0
    extents = [(_extent(a.box), _extent(b.box)) for a, b in zip(one.boxes, other.boxes, strict=True)]
    ranges = (np.array([[p.z_min], [p.z_max + 1]]) for p in (one, other))
    return min(box_overlap(*ranges), *(box_overlap(*pair) for pair in extents))


def _extent(box: Box) -> np.ndarray:
    """Returns the corners `[2, 2]` of a box (x_min, y_min, x_max, y_max), whose last pixels are included."""
    return np.array(box).reshape(2, 2) + [[0], [1]]
