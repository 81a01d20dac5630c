"""Chooses which pieces of an organ stay if its score map falls apart in the correction."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings

_MIN_SEED = 0.01
"""Min score of each voxel of a piece when pieces are weighed, so that each piece has a weight."""


class PiecesConfig(Settings):
    """Limits for the pieces of an organ that stay."""

    min_main: float = Field(0.25, gt=0, le=1, description="share of the surest piece's score from which on another one stays")
    min_minor: float = Field(
        0.02,
        gt=0,
        le=1,
        description="the same for a piece that lies above or below the others: chosen for a vena cava that falls in two",
    )
    max_overlap: float = Field(
        0.6, gt=0, le=1, description="share of its slices from which on a piece lies beside the others, not above or below them"
    )


def main_pieces(posterior: np.ndarray, seed: np.ndarray, threshold: float, config: PiecesConfig) -> np.ndarray:
    """Returns a posterior `[z, y, x]` in which an organ's main pieces stay; the others fall below the threshold.

    Of the pieces above the threshold, the one that registration is surest of stays, those that come close to it, and minor ones
    in slices that those do not reach: a vessel or a pancreas that falls apart stays whole.

    Args:
        posterior: probabilities of the organ.
        seed: its registered score map, of the same shape.
        threshold: probability above which voxels form pieces.
        config: which pieces stay.
    """
    inside = posterior > threshold
    pieces, count = ndimage.label(inside)
    if count < 2:
        return posterior
    found = pieces[inside]
    mass = np.bincount(found, posterior[inside] * np.maximum(seed[inside], _MIN_SEED) ** 2)
    share = mass / mass.max()
    stays = np.zeros(count + 1, bool)
    spans = [box[0] for box in ndimage.find_objects(pieces)]
    taken = np.zeros(len(posterior), bool)
    for piece in np.argsort(-share):
        if share[piece] < config.min_minor:
            break
        span = spans[piece - 1]
        stays[piece] = share[piece] >= config.min_main or taken[span].mean() < config.max_overlap
        taken[span] |= stays[piece]
    result = posterior.copy()
    result[inside] = np.where(stays[found], posterior[inside], threshold / 2)
    return result
