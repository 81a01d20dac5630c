"""Averages the labels of references in the common space, and measures the agreement of each reference with the others.

Only integers are summed, so that adding a reference to an atlas gives the same maps as building the atlas with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam2_atlas.atlas.atlas import ProbabilityMap
from medsam2_atlas.atlas.reference import HALF, MAP_SPACING, Reference, map_shape
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.imaging.cropped_map import lower_corner
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.registration import WorkImage


def probability_maps(references: Sequence[Reference], template: WorkImage, missing: MissingOrgan) -> dict[int, ProbabilityMap]:
    """Returns a probability map by organ number: the mean share over the references that count for a voxel.

    A reference counts for a voxel if its field of view covers the voxel, and if the organ is annotated in it or `missing` is
    `absent`.

    Args:
        references: references in one common space.
        template: the mean image of that space.
        missing: the meaning of an organ that a reference lacks: not annotated (`unknown`) or not present (`absent`).
    """
    shape = map_shape(template)
    covers = [reference.covers(shape) for reference in references]
    origin = template.origin.numpy()
    maps = {}
    for k in sorted({k for reference in references for k in reference.shares}):
        total, seen = _sums(references, covers, k, shape, missing)
        # Shares reach a little beyond their field of view, so the sum may be larger than the references that count.
        values = np.rint(np.minimum(total / np.maximum(seen, 1), 255)).astype(np.uint8)
        box = occupied(values, margin=1)
        if box is not None:
            shift = np.array(lower_corner(box)[::-1], np.float32) * MAP_SPACING
            count = sum(k in reference.organs for reference in references)
            maps[k] = ProbabilityMap(np.ascontiguousarray(values[box]), (origin + shift).astype(np.float32), count)
    return maps


def with_agreements(references: Sequence[Reference], template: WorkImage, missing: MissingOrgan) -> tuple[Reference, ...]:
    """Returns the references with their `agreement`: the Dice of each organ with the majority vote of all other references.

    The Dice is measured inside the reference's own field of view. Organs that no other reference has annotated are omitted.

    Args:
        references: references in one common space.
        template: the mean image of that space.
        missing: see `probability_maps`.
    """
    shape = map_shape(template)
    covers = [reference.covers(shape) for reference in references]
    found: list[dict[int, float]] = [{} for _ in references]
    for k in sorted({k for reference in references for k in reference.shares}):
        total, seen = _sums(references, covers, k, shape, missing)
        for i, reference in enumerate(references):
            share = reference.shares.get(k)
            if share is None or sum(k in other.organs for other in references) < 2:
                continue
            rest, others = total.copy(), seen - covers[i]
            rest[share.spans] -= share.values
            mask, common = reference.mask(k, shape), _majority(rest, others) & covers[i]
            sizes = int(mask.sum() + common.sum())
            found[i][k] = 2 * int((mask & common).sum()) / sizes if sizes else 1.0
    return tuple(reference.with_agreement(dice) for reference, dice in zip(references, found, strict=True))


def consensus(references: Sequence[Reference], k: int, shape: tuple[int, int, int], missing: MissingOrgan) -> np.ndarray:
    """Returns the majority vote of references for an organ.

    Args:
        references: references in one common space.
        k: the organ number.
        shape: the shape (z, y, x) of the map grid.
        missing: see `probability_maps`.

    Returns:
        `[z, y, x]` bool, True where at least half of the references that count for the voxel have the organ there.
    """
    return _majority(*_sums(references, [r.covers(shape) for r in references], k, shape, missing))


def _majority(total: np.ndarray, seen: np.ndarray) -> np.ndarray:
    agreed: np.ndarray = total >= HALF * np.maximum(seen, 1)
    return agreed


def _sums(
    references: Sequence[Reference], covers: Sequence[np.ndarray], k: int, shape: tuple[int, int, int], missing: MissingOrgan
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of an organ's shares and the number of references that count, each `[z, y, x]` by voxel."""
    total, seen = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for reference, covered in zip(references, covers, strict=True):
        if k in reference.organs or missing == "absent":
            seen += covered
        if k in reference.shares:
            total[reference.shares[k].spans] += reference.shares[k].values
    return total, seen
