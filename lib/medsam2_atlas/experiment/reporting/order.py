"""The order of variants in tables, and the groups of columns."""

from __future__ import annotations

from collections.abc import Iterable

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.segmenters.registry import family_of

UNETS, TRUE_BOXES, STRATEGIES, OWN_MODELS = "U-Nets", "Boxes from the ground truth", "Atlas and strategies", "Own models"
GROUPS = (UNETS, TRUE_BOXES, STRATEGIES, OWN_MODELS)
"""The groups of columns, from left to right."""


def group_of(segmenter: str) -> str:
    """Returns the group of a segmenter; one that this version does not know counts as an own model.

    >>> group_of("unet_3d"), group_of("D"), group_of("nnunet:liver")
    ('U-Nets', 'Atlas and strategies', 'Own models')
    """
    try:
        family = family_of(segmenter)
    except InputError:  # the records may come from another version
        return OWN_MODELS
    if family.prefix:
        return OWN_MODELS
    return {"trained": UNETS, "reference": TRUE_BOXES}.get(family.role, STRATEGIES)


def ordered(variants: Iterable[Variant]) -> list[Variant]:
    """Returns variants in the order of the tables.

    Within a group, strategies, whose names are capital letters, follow the others. Variants of a segmenter follow the
    segmenter: first those with jittered prompts, by kind and amount, then those with fewer references, by number.
    """

    def key(variant: Variant) -> tuple[int, bool, str, int, str, float, str]:
        kind, _, amount = (variant.jitter or "").partition("=")
        try:
            distance = float(amount)
        except ValueError:
            distance = 0.0
        name = variant.segmenter
        place = GROUPS.index(group_of(name))
        return place, name.isupper(), name, variant.references or 0, kind, distance, variant.jitter or ""

    return sorted(variants, key=key)
