"""Compares logits in float32, and shows that a larger deviation is behind a tie.

Rounding changes logits in their last digits. A decision between two values that are equal up to rounding can then differ, and
all slices that depend on it differ by much more. Such a *tie* is one of these:

- A prompted slice's mask is binarised for the memory, and pixels whose logit is nearly zero change sides.
- Two candidate masks have nearly the same predicted IoU, and the other one is chosen.
- The logit of the organ's presence is nearly zero.

A deviation is accepted only if such a decision differs before it, and if the official predictor, repeated with the other
decision, gives the same logits as the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from gpu_results import MAX_LOGIT, MEAN_LOGIT
from legacy import Change, Decision, Place

MEAN_TOLERANCE, MAX_TOLERANCE = MEAN_LOGIT, MAX_LOGIT
"""Max mean and max of a slice's absolute differences."""
MAX_TIED_LOGIT, MAX_TIED_SCORE = 1e-4, 1e-5
"""The max distance of a logit from zero, and of two predicted IoUs from each other, in a tie."""
_MAX_TIES = 4

Logits = Mapping[int, torch.Tensor]
"""Logits by slice, `[h, w]` at a quarter of the network's resolution."""
Repeat = Callable[[Mapping[Place, Change]], Mapping[int, Decision]]
"""Runs the official predictor with some decisions changed, and returns all decisions by slice."""


@dataclass(frozen=True)
class Tie:
    """A decision between values that are equal up to rounding.

    Attributes:
        place: the slice, and whether it was decoded from a prompt.
        kind: `sign`, `choice` or `presence`.
        change: makes the other decision.
    """

    place: Place
    kind: str
    change: Change


def assert_equal_except_behind_ties(repeat: Repeat, ours: Logits, ways: Sequence[Sequence[int]], size: int) -> list[Tie]:
    """Asserts that an engine's logits equal the official predictor's, except behind ties, and returns these ties.

    Args:
        repeat: runs the official predictor.
        ours: the engine's logits.
        ways: the slices of each direction, in the order in which they are segmented.
        size: the side of the network's input, in pixels. Masks are binarised at this resolution.
    """
    ties: list[Tie] = []
    while True:
        official = repeat({tie.place: tie.change for tie in ties})
        assert set(official) == set(ours)
        found = next(((way, z) for way in ways for z in way if not _equal(official[z].logits, ours[z])), None)
        if found is None:
            return ties
        way, z = found
        tie = _tie_at(official[z], ours[z], z) or _tie_before(official, ours, way[: way.index(z)], size)
        assert tie, f"slice {z} differs by up to {_difference(official[z].logits, ours[z])}, and no decision before it is a tie"
        assert tie.place not in {known.place for known in ties}, f"slice {z} differs although the tie was resolved"
        ties.append(tie)
        assert len(ties) <= _MAX_TIES, "too many ties"


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().mean()) <= MEAN_TOLERANCE and _difference(a, b) <= MAX_TOLERANCE


def _tie_at(official: Decision, ours: torch.Tensor, z: int) -> Tie | None:
    """Returns the tie if the decisions on slice z itself differ: the organ's presence, or another candidate."""
    place = z, official.prompted
    if abs(official.presence) <= MAX_TIED_LOGIT and _equal(_with_other_presence(official).logits, ours):
        return Tie(place, "presence", _with_other_presence)
    for n, score in enumerate(official.scores):
        if official.presence > 0 and official.scores.max() - score <= MAX_TIED_SCORE and _equal(official.masks[n], ours):
            return Tie(place, "choice", partial(_with_choice, n))
    return None


def _tie_before(official: Mapping[int, Decision], ours: Logits, before: Sequence[int], size: int) -> Tie | None:
    """Returns the first tie among prompted slices whose binarised masks differ."""
    for z in before:
        if not official[z].prompted:
            continue
        a, b = (F.interpolate(logits[None, None], (size, size), mode="bilinear") for logits in (official[z].logits, ours[z]))
        changed = (a > 0) != (b > 0)
        if changed.any():
            farthest = max(float(a[changed].abs().max()), float(b[changed].abs().max()))
            assert farthest <= MAX_TIED_LOGIT, (
                f"{int(changed.sum())} pixels of slice {z} change sides, with logits up to {farthest}"
            )
            return Tie((z, True), "sign", partial(_with_mask, ours[z]))
    return None


def _with_other_presence(decision: Decision) -> Decision:
    return replace(decision, presence=-decision.presence)


def _with_choice(n: int, decision: Decision) -> Decision:
    scores = torch.zeros_like(decision.scores)
    scores[n] = 1
    return replace(decision, scores=scores)


def _with_mask(mask: torch.Tensor, decision: Decision) -> Decision:
    masks = decision.masks.clone()
    masks[decision.chosen] = mask
    return replace(decision, masks=masks)
