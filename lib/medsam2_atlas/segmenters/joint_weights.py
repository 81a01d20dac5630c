"""The weights of the joint fusion that are stored with an atlas, by checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.scoremaps import fusion_config
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_fusion import JointWeights

KEY = "joint_weights"
"""The key of the weights in an atlas' options."""
_NOT_LEARNT = {"agreement_power", "confidence"}
"""Settings of the joint fusion that do not affect the learning."""


@dataclass(frozen=True)
class LearntWeights:
    """Weights that were learnt for an atlas and a checkpoint.

    Attributes:
        weights: the weights by organ number.
        before: mean estimated Dice of the left-out references with all weights 1, by organ number.
        after: the same with the learnt weights.
        references: the number of references that were left out in turn.
    """

    weights: JointWeights
    before: Mapping[int, float]
    after: Mapping[int, float]
    references: int


def with_joint_weights(atlas: Atlas, sha256: str, found: LearntWeights) -> Atlas:
    """Returns a copy of the atlas with learnt weights in its options; those of other checkpoints stay.

    Args:
        atlas: the atlas.
        sha256: the checksum of the checkpoint that the weights were learnt for.
        found: the learnt weights.
    """
    names = organ_table()

    def named(values: Mapping[int, float]) -> dict[str, float]:
        return {names[k].name: round(float(value), 4) for k, value in sorted(values.items())}

    entry = {
        "made_for": _made_for(atlas),
        "references": found.references,
        **found.weights.as_json(),
        "dice_before": named(found.before),
        "dice_after": named(found.after),
    }
    stored = atlas.options.get(KEY) or {}
    return replace(atlas, options={**atlas.options, KEY: {**stored, sha256: entry}})


def joint_weights(atlas: Atlas, sha256: str) -> JointWeights | None:
    """Returns the weights that were learnt for a checkpoint.

    Args:
        atlas: the atlas.
        sha256: the checksum of the checkpoint.

    Returns:
        None if there are none, or if they were learnt with other references or settings: all weights are then 1.
    """
    entry: Mapping[str, Any] = (atlas.options.get(KEY) or {}).get(sha256) or {}
    if not entry or entry.get("made_for") != _made_for(atlas):
        return None
    network, maps, agreement = (
        {o.index: float(values[o.name]) for o in organ_table().organs if o.name in values}
        for values in (entry["network"], entry["maps"], entry.get("agreement", {}))
    )
    return JointWeights(network, maps, agreement)


def _made_for(atlas: Atlas) -> str:
    """Returns twelve hexadecimal digits that change with the references, and with the settings of score maps and fusion."""
    digest = hashlib.sha256()
    for reference in atlas.references:
        digest.update(f"{reference.name} {reference.sha256}\n".encode())
    digest.update(repr((fusion_config().provenance(), joint_fusion_config().model_dump(exclude=_NOT_LEARNT))).encode())
    return digest.hexdigest()[:12]
