"""Atlases of some of an atlas' references, to measure how the results depend on the number of references.

Everything that the stored references determine is computed anew: probability maps, counts, agreements, the mean image and the
mean descriptors. No CT is read and no reference is registered again. The common space itself remains that of all references:
its grid, and the transforms between it and the references, which were registered to a mean image of all of them. The other
references therefore still help to align the chosen ones, and the accuracy at small numbers may be slightly too
high.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.build import assemble, group_of
from medsam2_atlas.atlas.reference import Reference
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.registration import Landmarks, RegistrationConfig, WorkImage, mean_of_warped

_REPLACED = ("thresholds", "joint_weights", "hu_offsets", "subset_of")


def subset(atlas: Atlas, names: Collection[str]) -> Atlas:
    """Returns an atlas of some of an atlas' references, in the same common space and on the same grids.

    The mean image and the mean descriptors, to which targets are registered, are those of the chosen references. The version of
    the template therefore differs, and stored registrations of other subsets are not used. A subset of all references keeps the
    template, so that its score maps are those of the atlas. Thresholds and weights that are stored with the atlas are always
    omitted, even for a subset of all references: they were found with all references, and one rule must apply to a whole curve.

    The options of the new atlas contain the version of the atlas under `subset_of`.

    Args:
        atlas: the atlas.
        names: names of its references; their order does not matter.

    Raises:
        AtlasError: a name is unknown, there is none, no chosen reference has a labelled organ, or the atlas does not contain
            valid registration parameters.
    """
    available = [reference.name for reference in atlas.references]
    unknown = sorted(set(names) - set(available))
    if unknown or not names:
        problem = f"has no reference {', '.join(unknown)}." if unknown else "cannot be reduced to no references."
        raise AtlasError(atlas.source, problem, f"Choose from: {', '.join(available)}.")
    chosen = [reference for reference in atlas.references if reference.name in names]
    template = atlas.template if len(chosen) == len(available) else _template_of(chosen, atlas)
    options: dict[str, Any] = {key: value for key, value in atlas.options.items() if key not in _REPLACED}
    offsets = {name: offset for name, offset in atlas.options.get("hu_offsets", {}).items() if name in names}
    options |= {"hu_offsets": offsets, "subset_of": atlas.version}
    return replace(assemble(template, chosen, options), source=atlas.source)


def _template_of(references: Sequence[Reference], atlas: Atlas) -> WorkImage:
    """Returns the mean image of references on the atlas' grid, with their mean descriptors if the atlas has some.

    Voxels that too few of the references cover are invalid.
    """
    try:
        config = RegistrationConfig.model_validate(atlas.options.get("registration"))
    except ValidationError as error:
        raise AtlasError(atlas.source, "does not contain valid registration parameters.", "Build it again.") from error
    pictures = (reference.on_template for reference in references)
    mean = mean_of_warped(pictures, atlas.template, config.group.min_coverage)
    landmarks = None if atlas.template.landmarks is None else Landmarks.of([reference.keypoints for reference in references])
    template = replace(mean, hu=mean.hu.round(), landmarks=landmarks)  # the stored form
    return template if atlas.template.group is None else replace(template, group=group_of(references, template, config))


def nested_subsets(
    names: Collection[str], counts: Collection[int], generator: np.random.Generator
) -> dict[int, tuple[str, ...]]:
    """Draws nested random subsets: each one begins with all names of the smaller ones.

    Nested subsets differ only by the added references, so a curve over their sizes is smoother than one over independent
    subsets.

    Args:
        names: names of the references; their order does not matter.
        counts: the sizes of the subsets.
        generator: draws the order in which references are added.

    Returns:
        The names of each subset by its size, in ascending sizes.

    Raises:
        InputError: a size is below 1 or above the number of references.
    """
    order = generator.permutation(sorted(set(names))).tolist()
    for count in counts:
        if not 1 <= count <= len(order):
            raise InputError(
                f"{count} references", "are not a possible subset.", f"Choose 1 to {len(order)}, the number of references."
            )
    return {count: tuple(order[:count]) for count in sorted(set(counts))}
