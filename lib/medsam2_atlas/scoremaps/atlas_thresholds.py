"""The step `thresholds`: those that were found best for an atlas, as they are stored with it."""

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
    """Thresholds that were found for an atlas.

    values: per organ number. overlap: mean intersection over union of the boxes there. fusion: label fusion of the maps that
    they were found on. corrected: whether intensities had corrected those maps. references: number of references, each of
    which was left out once.
    """

    values: dict[int, float]
    overlap: dict[int, float]
    fusion: str
    corrected: bool
    references: int


def with_thresholds(atlas: Atlas, found: Thresholds) -> Atlas:
    """Returns the atlas with thresholds beside its other options."""
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
    """Returns the thresholds that were found for an atlas and these settings; none if they were found for others."""
    stored: Mapping[str, Any] = atlas.options.get(_KEY) or {}
    made_for = (stored.get("fusion"), stored.get("corrected", False), stored.get("references"))
    if made_for != (config.vote.label_fusion, config.uses_intensities, len(atlas.references)):
        return {}
    return {o.index: float(stored["values"][o.name]) for o in organ_table().organs if o.name in stored["values"]}
