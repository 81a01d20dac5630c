"""Score maps that have looked at the target: what registration proposes, the target's own intensities correct.

Expectation-maximisation with a spatial prior, after Van Leemput et al. (IEEE TMI 1999) and Ashburner and Friston (NeuroImage
2005): the registered score map is the prior; two histograms of HU, of the organ and of what is of no organ near it, are
estimated from the target under the current posterior; prior and likelihoods give the next posterior. Nothing is trained, and an
organ that looks like its surroundings stays where registration has put it, since its two histograms are alike.

Where no reference's field of view reaches, the prior is not 0 but unknown: it is carried on from the border, decaying, so that
an organ that all references cut can still be followed in the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.scoremaps.bending import BendingConfig, bent
from medsam2_atlas.scoremaps.intensities import BINS, bins_of, counterparts, evidence_table
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps, around

_LEAST_PRIOR = 0.02
_MOST_PRIOR = 0.97
_NEAR = 0.01
_MARGIN = 4
"""Voxels around what is near: filters reach a little further."""
_MOST_THINNED = 3.0
"""How far a prior that spreading has thinned out is raised again."""
_BELONGS = 0.25
_CUT = 0.2
_MORE_LIKELY = 0.5
_BORDER_BLUR = 8.0
"""mm; a border is looked at over about twice as much."""
_LOGIT = 12.0
_PIECE = 0.25
"""Share of the surest piece's score from which on another one stays."""
_LESSER_PIECE = 0.02
"""The same for one that lies above or below the others."""
_BESIDE = 0.6
"""Share of its slices from which on a piece lies beside the others, not above or below them."""


class AppearanceConfig(BaseModel):
    """How the target's intensities correct score maps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(3, ge=0, description="of estimating histograms and posteriors; 0 leaves score maps as registered")
    spread: float = Field(3.0, gt=0, description="mm; how far registration is expected to be off")
    weight: float = Field(1.2, gt=0, description="of the likelihood beside the prior")
    most: float = Field(3.0, gt=0, description="highest evidence that one voxel's HU can give, natural logarithm")
    smoothing: float = Field(1.0, gt=0, description="mm; of the evidence")
    rounding: float = Field(0.03, ge=0, description="of the result, as a share of the organ's size")
    decay: float = Field(80.0, gt=0, description="mm; of the prior beyond the references' fields of view")
    reach: float = Field(100.0, gt=0, description="mm; how far beyond them an organ is followed")
    bending: BendingConfig = Field(
        BendingConfig.model_validate({}), description="how all maps are first bent together towards what explains the target"
    )


@dataclass(frozen=True)
class _Organ:
    """An organ under way. All arrays over `box` of the reduced grid; prior and evidence as log odds."""

    box: tuple[slice, ...]
    seed: np.ndarray
    prior: np.ndarray
    near: np.ndarray
    known: np.ndarray
    posterior: np.ndarray


def corrected(
    scores: ScoreMaps, target: Volume, known: ScoreMap, config: AppearanceConfig, pairs: Sequence[tuple[int, int]] = ()
) -> ScoreMaps:
    """Score maps after a look at the target.

    Args:
        scores: as registered.
        target: the CT that they lie on.
        known: on the same reduced grid, above 0.5 where at least one reference's field of view reaches.
        config: how.
        pairs: labels of organs that look alike.
    """
    if config.rounds == 0:
        return scores
    shape, spacing = scores.reduced_shape, scores.reduced_spacing
    bins = bins_of(target, scores)
    scores, known = bent(scores, known, bins, pairs, config.bending)
    seen = np.zeros(shape, bool)
    seen[known.spans] = known.values > 127
    names = [k for k, score in scores.maps.items() if score.values.size]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        started = pool.map(lambda k: _start(scores.maps[k], seen, spacing, config), names)
        organs = {k: organ for k, organ in zip(names, started, strict=True) if organ is not None}
        partner = counterparts(list(organs), pairs)
        for turn in range(config.rounds):
            nothing = np.ones(shape, np.float32)  # probability that a voxel is of no organ
            for organ in organs.values():
                nothing[organ.box] -= organ.posterior
            counted = pool.map(partial(_histograms, nothing=nothing, bins=bins, known_only=turn == 0), organs.values())
            inside, outside = np.array(list(counted)).reshape(-1, 2, BINS).swapaxes(0, 1)
            tables = evidence_table(inside, outside, partner, config.most)
            odds = list(pool.map(partial(_odds, bins=bins, spacing=spacing, config=config), organs.values(), tables))
            total = np.ones(shape, np.float32)  # odds of the background, then of all
            for organ, own in zip(organs.values(), odds, strict=True):
                total[organ.box] += own
            posteriors = pool.map(partial(_posterior, total=total), organs.values(), odds)
            organs = {k: replace(organ, posterior=p) for (k, organ), p in zip(organs.items(), posteriors, strict=True)}
        finished = pool.map(lambda k: _finished(scores.maps[k], organs[k], spacing, config), organs)
        return replace(scores, maps={**scores.maps, **dict(zip(organs, finished, strict=True))})


def _start(score: ScoreMap, seen: np.ndarray, spacing: np.ndarray, config: AppearanceConfig) -> _Organ | None:
    spread = config.spread / spacing
    box = around([score], 4 * spread, seen.shape)
    seed, known = score.over(box), seen[box]
    border = known & ndimage.binary_dilation(~known)
    cut = border.any() and float(seed[border].max()) > _CUT
    if cut:
        box = around([score], config.reach / spacing, seen.shape)
        seed, known = score.over(box), seen[box]
    prior = ndimage.gaussian_filter(seed, spread)
    if cut:
        share = ndimage.gaussian_filter(known.astype(np.float32), spread)
        prior = np.where(known, prior / np.maximum(share, 0.3), 0)
        prior = np.where(known, prior, _carried_on(prior, known, spacing, config.decay))
    highest = float(prior.max())
    if highest <= _LEAST_PRIOR:
        return None
    near = prior > _NEAR * highest
    # Spreading thins out what is thin: a vein would lose to the liver around it before anything was compared.
    prior = prior * min(_MOST_THINNED, float(seed.max()) / highest)
    part = occupied(near, margin=_MARGIN)
    assert part is not None, "the highest prior is near"
    box = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))
    prior, near, seed, known = np.clip(prior[part], 1e-4, _MOST_PRIOR), near[part].copy(), seed[part].copy(), known[part].copy()
    return _Organ(box, seed, np.log(prior / (1 - prior)), near, known, seed)


def _carried_on(prior: np.ndarray, known: np.ndarray, spacing: np.ndarray, decay: float) -> np.ndarray:
    """The prior where it is not known; looked up for every second pixel.

    Things go on as at the nearest known voxel, the less the further that is. An organ that a field of view cuts at its side may
    reach lower or higher than its cut, which no known voxel tells: then half comes from the nearest voxel of the cut.
    """
    rough, seen, steps = prior[:, ::2, ::2], known[:, ::2, ::2], spacing * [1, 2, 2]

    def nearest(source: np.ndarray) -> np.ndarray:
        away, index = ndimage.distance_transform_edt(~source, sampling=steps, return_indices=True)
        values: np.ndarray = rough[tuple(index)] * np.exp(-away / decay)
        return values

    carried = nearest(seen)
    cut = seen & ndimage.binary_dilation(~seen) & (rough > _MORE_LIKELY)
    if cut.any() and (cut := cut & _at_its_side(seen, steps)).any():
        carried = (carried + nearest(cut)) / 2
    return carried.astype(np.float32).repeat(2, 1).repeat(2, 2)[:, : prior.shape[1], : prior.shape[2]]


def _at_its_side(seen: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Where a field of view's border runs along the body rather than across it."""
    values, width = seen.astype(np.float32), _BORDER_BLUR / spacing
    z, y, x = (
        ndimage.gaussian_filter(values, width, order) / step for order, step in zip(np.eye(3, dtype=int), spacing, strict=True)
    )
    result: np.ndarray = np.hypot(y, x) > np.abs(z)
    return result


def _histograms(organ: _Organ, nothing: np.ndarray, bins: np.ndarray, known_only: bool) -> list[np.ndarray]:
    """Of the organ, and of what is of no organ near it."""
    counted = organ.near & organ.known if known_only else organ.near
    values, outside = bins[organ.box][counted], np.maximum(nothing[organ.box], 0)
    return [np.bincount(values, weights[counted], BINS) for weights in (organ.posterior**2, outside)]


def _odds(organ: _Organ, table: np.ndarray, bins: np.ndarray, spacing: np.ndarray, config: AppearanceConfig) -> np.ndarray:
    """Of the organ against what is of no organ near it, by what each bin says."""
    evidence = ndimage.gaussian_filter(table[bins[organ.box]], config.smoothing / spacing)
    odds: np.ndarray = np.exp(np.clip(organ.prior + config.weight * evidence, -_LOGIT, _LOGIT)) * organ.near
    return odds


def _posterior(organ: _Organ, odds: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Of the organ's odds among all of them, its main pieces."""
    return _main_pieces(odds / total[organ.box], organ.seed, _BELONGS)


def _finished(score: ScoreMap, organ: _Organ, spacing: np.ndarray, config: AppearanceConfig) -> ScoreMap:
    """Leaks that are thin for an organ's size are rounded off."""
    posterior = organ.posterior
    size = float((posterior > _MORE_LIKELY).sum() * spacing.prod()) ** (1 / 3)
    smooth = ndimage.gaussian_filter(posterior, config.rounding * size / spacing)
    if smooth.max() > _MORE_LIKELY:
        posterior = _main_pieces(smooth, organ.seed, _MORE_LIKELY)
    z, y, x = (span.start for span in organ.box)
    return replace(score, values=np.rint(posterior * 255).astype(np.uint8), low=(z, y, x))


def _main_pieces(posterior: np.ndarray, seed: np.ndarray, threshold: float) -> np.ndarray:
    """Of the pieces above a threshold, the one that registration is surest of stays, those that come close to it, and lesser
    ones in slices that those do not reach: a vessel or a pancreas that falls apart stays whole. The others fall below it.
    """
    inside = posterior > threshold
    pieces, count = ndimage.label(inside)
    if count < 2:
        return posterior
    found = pieces[inside]
    mass = np.bincount(found, posterior[inside] * np.maximum(seed[inside], 0.01) ** 2)
    share = mass / mass.max()
    stays = np.zeros(count + 1, bool)
    spans = [box[0] for box in ndimage.find_objects(pieces)]
    taken = np.zeros(len(posterior), bool)
    for piece in np.argsort(-share):
        if share[piece] < _LESSER_PIECE:
            break
        span = spans[piece - 1]
        stays[piece] = share[piece] >= _PIECE or taken[span].mean() < _BESIDE
        taken[span] |= stays[piece]
    result = posterior.copy()
    result[inside] = np.where(stays[found], posterior[inside], threshold / 2)
    return result
