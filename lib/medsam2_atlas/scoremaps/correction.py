"""The step `correct`: registration gives the prior; the target's intensities refine it.

The method is expectation-maximisation with a spatial prior, after Van Leemput et al. (IEEE TMI 1999) and Ashburner and Friston
(NeuroImage 2005). The registered score map is the prior. Each round estimates two HU histograms from the target under the
current posterior: one of the organ, one of the background near it. Prior and likelihoods give the next posterior. Nothing is
trained. If an organ looks like its surroundings, its two histograms are similar, and the map stays as registered.

Outside the references' fields of view, the prior is unknown, not 0. It is extrapolated from the border and decays with the
distance. So an organ that is only partially imaged in all references can still be followed in the target.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.imaging.cropped_map import Box, CroppedMap, box_around, lower_corner, nested
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.scoremaps.intensities import Intensities
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps
from medsam2_atlas.scoremaps.pieces import PiecesConfig, main_pieces
from medsam2_atlas.scoremaps.step import StepConfig

_MARGIN = 4
"""Margin in voxels around the voxels that may join an organ: filters need it."""
_MORE_LIKELY = 0.5
"""The probability above which a voxel is more likely to belong to the organ than not."""
_LOGIT = 12.0
"""Max log odds: float32 has too few digits for sums of higher odds."""
_MIN_PROBABILITY = 1e-4
"""Min probability: keeps log odds finite."""


class CorrectConfig(StepConfig):
    """How the target's intensities correct score maps."""

    rounds: int = Field(
        3, ge=0, description="rounds of estimating the histograms and the posteriors; 0 leaves the score maps unchanged"
    )
    spread: float = Field(3.0, gt=0, description="mm; expected error of the registration")
    weight: float = Field(1.2, gt=0, description="weight of the likelihood relative to the prior")
    max_evidence: float = Field(3.0, gt=0, description="natural logarithm; max log-likelihood ratio of one voxel's HU")
    smoothing: float = Field(
        1.0, gt=0, description="mm; standard deviation of the Gaussian that smooths the log-likelihood ratios"
    )
    rounding: float = Field(
        0.03,
        ge=0,
        description="standard deviation of the Gaussian that smooths the result, as a share of the organ's size: removes thin "
        "leaks",
    )
    decay: float = Field(80.0, gt=0, description="mm; decay length of the prior outside the references' fields of view")
    reach: float = Field(100.0, gt=0, description="mm; max distance to which an organ is followed outside them")
    min_prior: float = Field(0.02, gt=0, lt=1, description="an organ whose max prior is at most this stays as registered")
    max_prior: float = Field(0.97, gt=0, lt=1, description="max prior of a voxel, so that intensities can overrule every prior")
    near: float = Field(
        0.01, gt=0, lt=1, description="min prior of a voxel that may join the organ, as a share of the organ's max prior"
    )
    max_thinning: float = Field(
        3.0,
        ge=1,
        description="max factor that compensates the thinning of a prior by `spread`: without it, a vein loses to the liver "
        "around it",
    )
    min_known: float = Field(
        0.3,
        gt=0,
        le=1,
        description="min share of known voxels by which a spread prior is divided: dividing by less would make it grow "
        "without bound",
    )
    cut_score: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="an organ counts as partially imaged in the references if its score at the border of their fields of view "
        "exceeds this",
    )
    border_blur: float = Field(
        8.0, gt=0, description="mm; standard deviation of the Gaussian that smooths a border before its direction is computed"
    )
    piece_threshold: float = Field(
        0.25, gt=0, lt=1, description="posterior above which a voxel belongs to a piece, during the rounds"
    )
    pieces: PiecesConfig = Field(PiecesConfig.model_validate({}), description="limits for the pieces of an organ that stay")


@dataclass(frozen=True)
class _Organ:
    """The intermediate state of an organ.

    All arrays are `[z, y, x]` over `box` of the reduced grid: `seed` the registered scores, `prior` the log odds, `near` the
    voxels that may join the organ (bool), `known` the references' field of view (bool), `posterior` the probabilities.
    """

    box: Box
    seed: np.ndarray
    prior: np.ndarray
    near: np.ndarray
    known: np.ndarray
    posterior: np.ndarray


def correct(scores: ScoreMaps, field_of_view: CroppedMap, intensities: Intensities, config: CorrectConfig) -> ScoreMaps:
    """Corrects score maps by the target's intensities; the module docstring describes the method.

    Args:
        scores: the registered score maps.
        field_of_view: the references' field of view on the same reduced grid, above 0.5 inside.
        intensities: the target's intensities on that grid.
        config: the settings of the step.
    """
    if config.rounds == 0:
        return scores
    shape, spacing = scores.reduced_shape, scores.reduced_spacing
    known = np.zeros(shape, bool)
    known[field_of_view.spans] = field_of_view.values > 127
    names = [k for k, score in scores.maps.items() if score.values.size]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        started = pool.map(lambda k: _start(scores.maps[k], known, spacing, config), names)
        organs = {k: organ for k, organ in zip(names, started, strict=True) if organ is not None}
        for turn in range(config.rounds):
            background = np.ones(shape, np.float32)  # probability that a voxel belongs to no organ
            for organ in organs.values():
                background[organ.box] -= organ.posterior
            counted = pool.map(
                partial(_histograms, background=background, intensities=intensities, known_only=turn == 0), organs.values()
            )
            inside, outside = np.array(list(counted)).reshape(-1, 2, intensities.config.bins).swapaxes(0, 1)
            tables = intensities.log_likelihood_ratios(inside, outside, list(organs), config.max_evidence)
            odds = list(
                pool.map(partial(_odds, bins=intensities.bins, spacing=spacing, config=config), organs.values(), tables)
            )
            total = np.ones(shape, np.float32)  # sum of odds: 1 for the background, then the organs' odds
            for organ, own in zip(organs.values(), odds, strict=True):
                total[organ.box] += own
            posteriors = pool.map(partial(_posterior, total=total, config=config), organs.values(), odds)
            organs = {k: replace(organ, posterior=p) for (k, organ), p in zip(organs.items(), posteriors, strict=True)}
        finished = pool.map(lambda k: _finished(scores.maps[k], organs[k], spacing, config), organs)
        return replace(scores, maps={**scores.maps, **dict(zip(organs, finished, strict=True))})


def _start(score: ScoreMap, covered: np.ndarray, spacing: np.ndarray, config: CorrectConfig) -> _Organ | None:
    spread = config.spread / spacing
    box = box_around([score], 4 * spread, covered.shape)
    seed, known = score.probabilities(box), covered[box]
    border = known & ndimage.binary_dilation(~known)
    cut = border.any() and float(seed[border].max()) > config.cut_score
    if cut:
        box = box_around([score], config.reach / spacing, covered.shape)
        seed, known = score.probabilities(box), covered[box]
    prior = ndimage.gaussian_filter(seed, spread)
    if cut:
        share = ndimage.gaussian_filter(known.astype(np.float32), spread)
        prior = np.where(known, prior / np.maximum(share, config.min_known), 0)
        prior = np.where(known, prior, _extrapolated(prior, known, spacing, config))
    highest = float(prior.max())
    if highest <= config.min_prior:
        return None
    near = prior > config.near * highest
    # Spreading lowers the prior of thin organs: a vein would lose to the liver around it before any comparison.
    prior = prior * min(config.max_thinning, float(seed.max()) / highest)
    part = occupied(near, margin=_MARGIN)
    assert part is not None, "the voxel of the max prior may join the organ"
    prior, near = np.clip(prior[part], _MIN_PROBABILITY, config.max_prior), near[part].copy()
    seed, known = seed[part].copy(), known[part].copy()
    return _Organ(nested(box, part), seed, np.log(prior / (1 - prior)), near, known, seed)


def _extrapolated(prior: np.ndarray, known: np.ndarray, spacing: np.ndarray, config: CorrectConfig) -> np.ndarray:
    """Returns the prior extrapolated outside the known voxels, computed at every second pixel.

    An unknown voxel gets the prior of the nearest known voxel, which decays with the distance. If a field of view cuts an organ
    at its side, the organ may extend above or below the cut, where known voxels show no organ. In that case, half of the value
    comes from the nearest voxel of the cut.
    """
    rough, seen, steps = prior[:, ::2, ::2], known[:, ::2, ::2], spacing * [1, 2, 2]

    def nearest(source: np.ndarray) -> np.ndarray:
        distance, index = ndimage.distance_transform_edt(~source, sampling=steps, return_indices=True)
        values: np.ndarray = rough[tuple(index)] * np.exp(-distance / config.decay)
        return values

    extrapolated = nearest(seen)
    cut = seen & ndimage.binary_dilation(~seen) & (rough > _MORE_LIKELY)
    if cut.any() and (cut := cut & _at_its_side(seen, steps, config.border_blur)).any():
        extrapolated = (extrapolated + nearest(cut)) / 2
    return extrapolated.astype(np.float32).repeat(2, 1).repeat(2, 2)[:, : prior.shape[1], : prior.shape[2]]


def _at_its_side(seen: np.ndarray, spacing: np.ndarray, blur: float) -> np.ndarray:
    """Returns a bool `[z, y, x]`: True where a field of view's border runs along the body rather than across it."""
    values, width = seen.astype(np.float32), blur / spacing
    z, y, x = (
        ndimage.gaussian_filter(values, width, order) / step for order, step in zip(np.eye(3, dtype=int), spacing, strict=True)
    )
    result: np.ndarray = np.hypot(y, x) > np.abs(z)
    return result


def _histograms(organ: _Organ, background: np.ndarray, intensities: Intensities, known_only: bool) -> list[np.ndarray]:
    """Returns the HU histograms of the organ and of the background near it, each `[bins]`."""
    counted = organ.near & organ.known if known_only else organ.near
    values, outside = intensities.bins[organ.box][counted], np.maximum(background[organ.box], 0)
    return [np.bincount(values, weights[counted], intensities.config.bins) for weights in (organ.posterior**2, outside)]


def _odds(organ: _Organ, table: np.ndarray, bins: np.ndarray, spacing: np.ndarray, config: CorrectConfig) -> np.ndarray:
    """Returns each voxel's odds of the organ against the background, from its prior and its bin's log-likelihood ratio."""
    ratios = ndimage.gaussian_filter(table[bins[organ.box]], config.smoothing / spacing)
    odds: np.ndarray = np.exp(np.clip(organ.prior + config.weight * ratios, -_LOGIT, _LOGIT)) * organ.near
    return odds


def _posterior(organ: _Organ, odds: np.ndarray, total: np.ndarray, config: CorrectConfig) -> np.ndarray:
    """Returns the organ's probabilities: its share of the total odds, reduced to its main pieces."""
    return main_pieces(odds / total[organ.box], organ.seed, config.piece_threshold, config.pieces)


def _finished(score: ScoreMap, organ: _Organ, spacing: np.ndarray, config: CorrectConfig) -> ScoreMap:
    """Smooths the posterior to remove leaks that are thin for the organ's size, and returns it as a score map."""
    posterior = organ.posterior
    size = float((posterior > _MORE_LIKELY).sum() * spacing.prod()) ** (1 / 3)
    smooth = ndimage.gaussian_filter(posterior, config.rounding * size / spacing)
    if smooth.max() > _MORE_LIKELY:
        posterior = main_pieces(smooth, organ.seed, _MORE_LIKELY, config.pieces)
    return replace(score, values=np.rint(posterior * 255).astype(np.uint8), lower=lower_corner(organ.box))
