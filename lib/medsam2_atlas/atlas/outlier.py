"""Finds references that would spoil an atlas: swapped or wrong labels, failed registrations, bad outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam2_atlas.atlas.average import consensus, with_agreements
from medsam2_atlas.atlas.config import OutlierConfig, atlas_config
from medsam2_atlas.atlas.reference import MAP_SPACING, Reference, map_shape
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.registration import WorkImage

_NORMAL = 1.4826
"""The standard deviation of a normal distribution, in units of its median absolute deviation."""


def outlying(
    reference: Reference,
    others: Sequence[Reference],
    template: WorkImage,
    missing: MissingOrgan = "unknown",
    table: OrganTable | None = None,
    limits: OutlierConfig | None = None,
) -> str:
    """Returns the reason why a registered reference is an outlier; empty if it is not one, or if there are fewer than 2 others.

    Each check is limited to the reference's field of view, so that a partially imaged organ is compared with the same part of
    the others:

    1. Two organs lie in each other's region: their labels were swapped.
    2. An organ lies far from its region: it has a wrong label, or registration failed. The limit is the others' median distance
       plus `spreads` robust deviations, and at least `min_distance`, because bladder and stomach vary in position.
    3. The mean Dice with the others' consensus is far below theirs: the outlines are bad. The limit is the others' median Dice
       less `spreads` robust deviations; a deviation counts as at least `min_spread`.

    Args:
        reference: the reference to check.
        others: the trusted references of the same common space.
        template: the mean image of that space.
        missing: see `probability_maps`.
        table: the organs' names; those of `configs/labels.yaml` by default.
        limits: the limits; those of `configs/atlas.yaml` by default.
    """
    if len(others) < 2:
        return ""
    table, limits = table or organ_table(), limits or atlas_config().outlier
    shape = map_shape(template)
    masks = {k: reference.mask(k, shape) for k in reference.shares}
    places = {k: consensus(others, k, shape, missing) & reference.covers(shape) for k in {*masks} & _shared(others)}
    swapped = _swapped(masks, places, table, limits)
    if swapped:
        return swapped
    for k, place in places.items():
        distance = _distance(masks[k], place)
        if distance is not None and distance > limits.min_distance:
            usual = _usual_distances(k, others, shape, missing)
            limit = max(limits.min_distance, _median(usual) + limits.spreads * _spread(usual))
            if distance > limit:
                place_of = f"its {table[k].display} lies {distance:.0f} mm from its position in the other references"
                return f"{place_of} (limit {limit:.0f} mm): wrong label?"
    return _badly_outlined(reference, others, template, missing, limits)


def _shared(references: Sequence[Reference]) -> set[int]:
    """Returns the organs that at least two references have."""
    counts: dict[int, int] = {}
    for reference in references:
        for k in reference.shares:
            counts[k] = counts.get(k, 0) + 1
    return {k for k, n in counts.items() if n > 1}


def _swapped(masks: dict[int, np.ndarray], places: dict[int, np.ndarray], table: OrganTable, limits: OutlierConfig) -> str:
    def lies_in(a: int, b: int) -> bool:
        size = max(1, int(masks[a].sum()))
        inside, left = (masks[a] & places[b]).sum(), (masks[a] & places[a]).sum()
        return bool(inside > limits.swapped_inside * size and left < limits.swapped_left * size)

    for a in places:
        for b in places:
            if a < b and lies_in(a, b) and lies_in(b, a):
                return f"its {table[a].display} and {table[b].display} lie in each other's place: were the labels swapped?"
    return ""


def _usual_distances(k: int, others: Sequence[Reference], shape: tuple[int, int, int], missing: MissingOrgan) -> np.ndarray:
    """Returns, for each other reference, the distance in mm between its organ and the organ in the remaining references."""
    found = []
    for other in others:
        if k in other.shares:
            rest = consensus([r for r in others if r is not other], k, shape, missing) & other.covers(shape)
            found.append(_distance(other.mask(k, shape), rest))
    return np.array([distance for distance in found if distance is not None])


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _spread(values: np.ndarray) -> float:
    """Returns the robust standard deviation; 0 if there are no values."""
    return _NORMAL * float(np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def _badly_outlined(
    reference: Reference, others: Sequence[Reference], template: WorkImage, missing: MissingOrgan, limits: OutlierConfig
) -> str:
    organs = with_agreements([*others, reference], template, missing)[-1].agreement
    # The others are compared by the same organs, because small organs always have a lower Dice than large ones.
    scores = [[r.agreement[k] for k in organs if k in r.agreement] for r in with_agreements(others, template, missing)]
    rest = np.array([np.mean(values) for values in scores if values])
    if not organs or len(rest) < 2:
        return ""
    mine = float(np.mean(list(organs.values())))
    limit = _median(rest) - limits.spreads * max(limits.min_spread, _spread(rest))
    if mine >= limit:
        return ""
    return f"its organs have a mean Dice of only {mine:.2f} with the other references (limit {limit:.2f})"


def _distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns the distance in mm between the centres of two masks on the map grid; None if one is empty."""
    if not first.any() or not second.any():
        return None
    return float(np.linalg.norm(_centre(first) - _centre(second))) * MAP_SPACING


def _centre(mask: np.ndarray) -> np.ndarray:
    """Returns the centre (z, y, x) of a mask in voxels."""
    profiles = [mask.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([np.average(np.arange(len(p)), weights=p) for p in profiles])
