"""The step `thresholds`: reads the best thresholds that are stored with an atlas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.scoremaps.config import FusionConfig

_KEY = "thresholds"


@dataclass(frozen=True)
class Thresholds:
    """The best thresholds of an atlas, found by leaving out each reference once.

    Attributes:
        values: the threshold by organ number, 0..1.
        overlap: the mean intersection over union of the boxes at that threshold, by organ number.
        fusion: the label fusion of the maps.
        corrected: whether intensities had corrected the maps.
        references: the number of references.
    """

    values: dict[int, float]
    overlap: dict[int, float]
    fusion: str
    corrected: bool
    references: int


def with_thresholds(atlas: Atlas, found: Thresholds) -> Atlas:
    """Returns a copy of the atlas with the thresholds in its options."""
    names = organ_table()
    stored = {
        "fusion": found.fusion,
        "corrected": found.corrected,
        "references": found.references,
        "values": {names[k].name: value for k, value in found.values.items()},
        "box_overlap": {names[k].name: round(value, 4) for k, value in found.overlap.items()},
    }
    return replace(atlas, options={**atlas.options, _KEY: stored})


def thresholds_of(atlas: Atlas, config: FusionConfig) -> dict[int, float]:
    """Returns an atlas' thresholds by organ number; empty if they were found with other settings or references."""
    stored: Mapping[str, Any] = atlas.options.get(_KEY) or {}
    made_for = (stored.get("fusion"), stored.get("corrected", False), stored.get("references"))
    if made_for != (config.vote.name, config.uses_intensities, len(atlas.references)):
        return {}
    return {o.index: float(stored["values"][o.name]) for o in organ_table().organs if o.name in stored["values"]}
