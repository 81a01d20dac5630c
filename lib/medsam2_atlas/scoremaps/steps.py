"""The list of steps from a target to its score maps.

A step takes one value and returns the next: `Target` → `Alignment` → `Votes` → `Warped`. Later steps return a modified
`Warped`. To add a registration, see `registration.methods`; to add a label fusion, see `voting`.
"""

from __future__ import annotations

from dataclasses import replace

from medsam2_atlas.base.progress import Progress
from medsam2_atlas.scoremaps.alignment import Alignment, Target, align, already_aligned
from medsam2_atlas.scoremaps.atlas_thresholds import thresholds_of
from medsam2_atlas.scoremaps.bending import warp_jointly
from medsam2_atlas.scoremaps.config import FusionConfig
from medsam2_atlas.scoremaps.correction import correct
from medsam2_atlas.scoremaps.evidence import with_evidence
from medsam2_atlas.scoremaps.restoring import restored
from medsam2_atlas.scoremaps.step import Step
from medsam2_atlas.scoremaps.voting import Votes, plain_mean, vote
from medsam2_atlas.scoremaps.warping import Warped, on_map_grid, warp


def _align(target: Target, _: FusionConfig, progress: Progress) -> Alignment:
    return align(target, progress)


def _vote(alignment: Alignment, config: FusionConfig, _: Progress) -> Votes:
    return vote(alignment, config.vote)


def _warp(votes: Votes, config: FusionConfig, progress: Progress) -> Warped:
    return warp(votes, config.warp, progress)


def _restore(warped: Warped, config: FusionConfig, _: Progress) -> Warped:
    return restored(warped, config.histograms, config.restore) if config.uses_intensities else warped


def _bend(warped: Warped, config: FusionConfig, _: Progress) -> Warped:
    intensities = warped.measured_intensities(config.histograms)
    scores, field_of_view = warp_jointly(warped.scores, warped.field_of_view, intensities, config.bend)
    return replace(warped, scores=scores, field_of_view=field_of_view, intensities=intensities)


def _correct(warped: Warped, config: FusionConfig, _: Progress) -> Warped:
    intensities = warped.measured_intensities(config.histograms)
    scores = correct(warped.scores, warped.field_of_view, intensities, config.correct)
    return replace(warped, scores=scores, intensities=intensities)


def _evidence(warped: Warped, config: FusionConfig, _: Progress) -> Warped:
    return replace(warped, scores=with_evidence(warped, config.evidence))


def _thresholds(warped: Warped, config: FusionConfig, _: Progress) -> Warped:
    return replace(warped, scores=replace(warped.scores, thresholds=thresholds_of(warped.alignment.atlas, config)))


RESTORE, BEND, CORRECT = Step("restore", _restore), Step("bend", _bend), Step("correct", _correct)

STEPS: tuple[Step, ...] = (
    Step("align", _align, skip=already_aligned),
    Step("vote", _vote, skip=plain_mean),
    Step("warp", _warp, skip=on_map_grid),
    RESTORE,
    BEND,
    CORRECT,
    Step("evidence", _evidence),
    Step("thresholds", _thresholds),
)
"""All steps, from a `Target` to a `Warped`. `configs/fusion.yaml` has one section per step, with the step's name."""
