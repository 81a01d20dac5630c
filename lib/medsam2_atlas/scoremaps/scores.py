"""Makes score maps: runs `steps.STEPS`, starting from a target or from its alignment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import RegistrationCache, RegistrationConfig, registration_config
from medsam2_atlas.scoremaps.alignment import Alignment, Target
from medsam2_atlas.scoremaps.config import FusionConfig, fusion_config
from medsam2_atlas.scoremaps.maps import ScoreMaps
from medsam2_atlas.scoremaps.steps import STEPS


def score_maps(
    target: Volume,
    atlas: Atlas,
    organs: Iterable[int] | None = None,
    config: RegistrationConfig | None = None,
    progress: Progress = silent,
    cache: RegistrationCache | None = None,
    fusion: FusionConfig | None = None,
) -> ScoreMaps:
    """Returns the score maps of a target. All enabled steps run.

    Args:
        target: the CT in HU.
        atlas: the atlas to compare it with.
        organs: the organ numbers to return; all organs of the atlas by default.
        config: the registration parameters; those of `configs/registration.yaml` by default.
        progress: called with the stage and the fraction completed.
        cache: stores the registration for other atlases of the same common space; not stored by default.
        fusion: the settings of the steps; those of `configs/fusion.yaml` by default.

    Raises:
        InputError: the target shows no body, or too little of it.
    """
    begin = Target(target, atlas, config or registration_config(), cache)
    return _select(_run(begin, fusion or fusion_config(), progress), organs)


def fused_scores(
    alignment: Alignment, fusion: FusionConfig, organs: Iterable[int] | None = None, progress: Progress = silent
) -> ScoreMaps:
    """Returns the score maps of a registered target. All enabled steps after the first run.

    Args:
        alignment: the target's alignment.
        fusion: the settings of the steps.
        organs: the organ numbers to return; all organs of the atlas by default.
        progress: called with the stage and the fraction completed.
    """
    return _select(_run(alignment, fusion, progress, first=1), organs)


def _run(value: Any, config: FusionConfig, progress: Progress, first: int = 0) -> ScoreMaps:
    for step in STEPS[first:]:
        value = step(value, config, progress)
    scores: ScoreMaps = value.scores
    return scores


def _select(scores: ScoreMaps, organs: Iterable[int] | None) -> ScoreMaps:
    """Returns the requested maps. The steps make maps of all organs, because organs compete for voxels."""
    if organs is None:
        return scores
    return replace(scores, maps={k: scores.maps[k] for k in organs if k in scores.maps})
