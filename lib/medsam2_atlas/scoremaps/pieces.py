"""Chooses the pieces of an organ that stay if its score map falls apart in the correction."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings

_MIN_SEED = 0.01
"""The min registered score of a voxel in the weight of a piece, so that each piece has a weight."""


class PiecesConfig(Settings):
    """Limits for the pieces of an organ that stay."""

    min_main: float = Field(
        0.25, gt=0, le=1, description="min score of a piece that stays, as a share of the score of the most certain piece"
    )
    min_minor: float = Field(
        0.02,
        gt=0,
        le=1,
        description="the same for a piece above or below the other pieces: chosen for a vena cava that falls into two pieces",
    )
    max_overlap: float = Field(
        0.6,
        gt=0,
        le=1,
        description="max share of its slices that a piece above or below the others shares with them; a piece with a larger "
        "share is beside them",
    )


def main_pieces(posterior: np.ndarray, seed: np.ndarray, threshold: float, config: PiecesConfig) -> np.ndarray:
    """Returns a posterior in which only an organ's main pieces stay; other pieces are reduced to half the threshold.

    Three kinds of pieces stay: the piece with the highest registered score, pieces with at least the share `min_main` of that
    score, and smaller pieces on other slices. So a vessel or a pancreas that falls apart keeps all its pieces.

    Args:
        posterior: the organ's probabilities, `[z, y, x]`, 0..1.
        seed: its registered score map, `[z, y, x]`, 0..1.
        threshold: the probability above which voxels form pieces.
        config: the limits for the pieces that stay.

    Returns:
        `[z, y, x]`, 0..1.
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
