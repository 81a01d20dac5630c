"""Compares the prompts of two passes, to find organs that a second pass need not repeat."""

from __future__ import annotations

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
    boxes = (_iou(a.box, b.box) for a, b in zip(one.boxes, other.boxes, strict=True))
    return min(_iou((one.z_min, 0, one.z_max, 0), (other.z_min, 0, other.z_max, 0)), *boxes)


def _iou(one: Box, other: Box) -> float:
    """Returns the IoU of two boxes (x_min, y_min, x_max, y_max), whose last pixels are included."""
    shared = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0] + 1) * max(0.0, box[3] - box[1] + 1)
