"""Score maps: runs `steps.STEPS`, from a target or from its alignment on."""

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
    """Returns score maps of a target: all steps run, as far as they are switched on.

    Args:
        target: the CT.
        atlas: to compare it with.
        organs: numbers; all of the atlas by default.
        config: registration parameters; those of `configs/registration.yaml` by default.
        progress: called with stage and fraction completed.
        cache: where the registration is kept for other atlases of the same common space.
        fusion: settings of the steps; those of `configs/fusion.yaml` by default.

    Raises:
        InputError: the target shows no body, or too little of it.
    """
    begin = Target(target, atlas, config or registration_config(), cache)
    return _select(_run(begin, fusion or fusion_config(), progress), organs)


def fused_scores(
    alignment: Alignment, fusion: FusionConfig, organs: Iterable[int] | None = None, progress: Progress = silent
) -> ScoreMaps:
    """Returns score maps of a target that has been registered: the steps after the first one run.

    Args:
        alignment: of the target.
        fusion: settings of the steps.
        organs: numbers; all of the atlas by default.
        progress: called with the fraction completed.
    """
    return _select(_run(alignment, fusion, progress, first=1), organs)


def _run(value: Any, config: FusionConfig, progress: Progress, first: int = 0) -> ScoreMaps:
    for step in STEPS[first:]:
        value = step(value, config, progress)
    scores: ScoreMaps = value.scores
    return scores


def _select(scores: ScoreMaps, organs: Iterable[int] | None) -> ScoreMaps:
    """Returns the maps that were asked for. All organs of an atlas get maps, since they compete for voxels."""
    if organs is None:
        return scores
    return replace(scores, maps={k: scores.maps[k] for k in organs if k in scores.maps})
