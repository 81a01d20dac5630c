"""Plans an experiment: its variants, and the smaller atlases that they need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsam2_atlas.atlas import Atlas, nested_subsets, subset
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.prompting import Jitter
from medsam2_atlas.segmenters.registry import family_of, models

JITTERED = "reference-3"
"""The segmenter whose prompts are jittered: three boxes from the ground truth."""


def variants_of(
    segmenters: Sequence[str], references: Sequence[int] = (), jitters: Sequence[Jitter] = ()
) -> tuple[Variant, ...]:
    """Returns the variants of an experiment, in the order of its tables.

    Args:
        segmenters: names of segmenters.
        references: numbers of references with which each prompted segmenter also runs.
        jitters: displacements of the true prompts; each adds a variant of `reference-3`, which is added itself if missing.

    Raises:
        InputError: if a segmenter is named twice, is unknown or interactive, or `references` are given without a prompted
            segmenter.
    """
    for name in segmenters:
        if family_of(name).role == "interactive":
            raise InputError(name, "needs a person's marks.", "Name segmenters that run on their own.")
        if list(segmenters).count(name) > 1:
            raise InputError(name, "is named twice.", "Name each segmenter once.")
    prompted = [name for name in segmenters if family_of(name).role == "prompted"]
    if references and not prompted:
        choices = ", ".join(name for model in models(roles=["prompted"]) for name in model.names)
        raise InputError("--references", "needs a segmenter that uses the atlas.", f"Add one of: {choices}.")
    found = [Variant(segmenter=name) for name in segmenters]
    if jitters and JITTERED not in segmenters:
        found.append(Variant(segmenter=JITTERED))
    found += [Variant(segmenter=name, references=count) for name in prompted for count in sorted(set(references))]
    found += [Variant(segmenter=JITTERED, jitter=str(jitter)) for jitter in sorted(set(jitters), key=lambda j: (j.kind, j.mm))]
    return tuple(found)


def smaller_atlases(atlas: Atlas, counts: Sequence[int], folder: Path, seed: int) -> dict[int, Path]:
    """Writes atlases with fewer references, and returns their folders by number of references.

    The subsets are random and nested: each contains the smaller ones. An atlas that is already there is kept.

    Args:
        atlas: the whole atlas.
        counts: numbers of references.
        folder: folder to write to; created if missing.
        seed: seed of the choice.

    Raises:
        InputError: if a number is larger than the atlas' number of references.
    """
    total, found = len(atlas.references), {}
    if max(counts, default=0) > total:
        raise InputError("--references", f"contains {max(counts)}.", f"The atlas has {total} references; name smaller numbers.")
    chosen = nested_subsets([r.name for r in atlas.references], counts, np.random.default_rng(seed))
    for count, names in chosen.items():
        smaller, place = subset(atlas, names), folder / f"{count}-references"
        if _version(place) != smaller.version:
            folder.mkdir(parents=True, exist_ok=True)
            smaller.save(place)
        found[count] = place
    return found


def _version(folder: Path) -> str:
    """Returns the version of the atlas in a folder; empty if there is none."""
    try:
        return str(json.loads((folder / "atlas.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
