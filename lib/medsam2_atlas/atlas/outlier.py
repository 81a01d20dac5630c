"""Tells references that would spoil an atlas: swapped or wrong labels, a registration gone astray, bad outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam2_atlas.atlas.average import consensus, with_agreements
from medsam2_atlas.atlas.reference import MAP_SPACING, Reference, map_shape
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.registration import WorkImage

_SPREADS = 4.0
_LEAST_SPREAD_DICE = 0.06
_LEAST_MM = 60.0
_MOSTLY = 0.5
_HARDLY = 0.1


def outlying(
    reference: Reference,
    others: Sequence[Reference],
    template: WorkImage,
    missing: MissingOrgan = "unknown",
    table: OrganTable | None = None,
) -> str:
    """Why a reference lies apart from the others after registration; empty where it does not, or fewer than two others.

    Each look is at what the reference's field of view covers, so that an organ cut by the end of a scan is held against the
    same part of the others:

    1. two organs that lie in each other's place: labels were swapped;
    2. an organ far from its place: another label, or a registration gone astray. The limit is the others' median distance
       and four robust deviations, at least 60 mm, since a bladder or a stomach is not always where others have theirs;
    3. a mean Dice with the others' consensus far below theirs: bad outlines. The limit is their median less four robust
       deviations, each at least 0.06.

    Args:
        reference: the one in question.
        others: those that are trusted, of the same common space.
        template: of that space.
        missing: see `probability_maps`.
        table: names of the organs.
    """
    if len(others) < 2:
        return ""
    table = table or organ_table()
    shape = map_shape(template)
    masks = {k: reference.mask(k, shape) for k in reference.shares}
    places = {k: consensus(others, k, shape, missing) & reference.covers(shape) for k in {*masks} & _shared(others)}
    return (
        _swapped(masks, places, table)
        or _misplaced(masks, places, others, shape, missing, table)
        or _badly_outlined(reference, others, template, missing)
    )


def _shared(references: Sequence[Reference]) -> set[int]:
    """Organs that at least two references have."""
    counts: dict[int, int] = {}
    for reference in references:
        for k in reference.shares:
            counts[k] = counts.get(k, 0) + 1
    return {k for k, n in counts.items() if n > 1}


def _swapped(masks: dict[int, np.ndarray], places: dict[int, np.ndarray], table: OrganTable) -> str:
    def lies_in(a: int, b: int) -> bool:
        size = max(1, int(masks[a].sum()))
        return (masks[a] & places[b]).sum() > _MOSTLY * size and (masks[a] & places[a]).sum() < _HARDLY * size

    for a in places:
        for b in places:
            if a < b and lies_in(a, b) and lies_in(b, a):
                return f"its {table[a].display} and {table[b].display} lie in each other's place: were the labels swapped?"
    return ""


def _misplaced(
    masks: dict[int, np.ndarray],
    places: dict[int, np.ndarray],
    others: Sequence[Reference],
    shape: tuple[int, int, int],
    missing: MissingOrgan,
    table: OrganTable,
) -> str:
    for k, place in places.items():
        away = _distance(masks[k], place)
        if away is None or away <= _LEAST_MM:
            continue
        usual = []
        for other in others:
            if k in other.shares:
                rest = consensus([r for r in others if r is not other], k, shape, missing) & other.covers(shape)
                usual.append(_distance(other.mask(k, shape), rest))
        known = np.array([d for d in usual if d is not None])
        spread = 1.4826 * float(np.median(np.abs(known - np.median(known)))) if len(known) else 0.0
        limit = max(_LEAST_MM, float(np.median(known)) + _SPREADS * spread if len(known) else 0.0)
        if away > limit:
            name = table[k].display
            return f"its {name} lies {away:.0f} mm from where the other references have it (limit {limit:.0f} mm): wrong label?"
    return ""


def _badly_outlined(reference: Reference, others: Sequence[Reference], template: WorkImage, missing: MissingOrgan) -> str:
    organs = with_agreements([*others, reference], template, missing)[-1].agreement
    # The others are judged among themselves, and by the same organs: small ones never agree as large ones do.
    scores = [[r.agreement[k] for k in organs if k in r.agreement] for r in with_agreements(others, template, missing)]
    rest = np.array([np.mean(values) for values in scores if values])
    if not organs or len(rest) < 2:
        return ""
    mine = float(np.mean(list(organs.values())))
    spread = max(_LEAST_SPREAD_DICE, 1.4826 * float(np.median(np.abs(rest - np.median(rest)))))
    limit = float(np.median(rest)) - _SPREADS * spread
    if mine >= limit:
        return ""
    return f"its organs agree with the other references to a mean Dice of {mine:.2f} only (limit {limit:.2f})"


def _distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """Between the centres of two masks on the map grid, in mm."""
    if not first.any() or not second.any():
        return None
    return float(np.linalg.norm(_centre(first) - _centre(second))) * MAP_SPACING


def _centre(mask: np.ndarray) -> np.ndarray:
    """Centre of a mask in voxels, (z, y, x)."""
    profiles = [mask.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([np.average(np.arange(len(p)), weights=p) for p in profiles])
