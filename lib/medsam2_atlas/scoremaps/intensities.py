"""Histograms of HU, and what they tell of a voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.scoremaps.maps import ScoreMaps

_LOW_HU, _HIGH_HU = -160.0, 350.0
BINS = 60
_BIN_BLUR = 1.5
_PIXEL_BLUR = 1.0
_LEAST_SHARE = 1e-3
"""Added to both histograms: a value that was hardly seen says little."""


def bins_of(target: Volume, scores: ScoreMaps) -> np.ndarray:
    """Each voxel's place in a histogram, uint8 0..`BINS` − 1, on the score maps' reduced grid."""
    pixels = torch.from_numpy(np.ascontiguousarray(target.array)).clamp(_LOW_HU, _HIGH_HU)
    reduced = F.avg_pool2d(pixels, scores.stride, ceil_mode=True).numpy()
    smooth = ndimage.gaussian_filter(reduced, _PIXEL_BLUR / scores.reduced_spacing, output=reduced)
    scaled = (smooth - _LOW_HU) * np.float32(BINS / (_HIGH_HU - _LOW_HU))
    result: np.ndarray = np.minimum(scaled, BINS - 1).astype(np.uint8)
    return result


def counterparts(organs: Sequence[int], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Where each organ's counterpart of a pair stands among them; where it stands itself if there is none."""
    places = np.arange(len(organs))
    for pair in pairs:
        if set(pair) <= set(organs):
            left, right = map(organs.index, pair)
            places[[left, right]] = right, left
    return places


def evidence_table(inside: np.ndarray, outside: np.ndarray, partner: np.ndarray, most: float) -> np.ndarray:
    """What each bin says for an organ: the logarithm of its histograms' ratio.

    Paired organs look alike, so that both tell what either looks like: a kidney that registration takes for the spleen
    beside it is led back by the other kidney.

    Args:
        inside: histograms of organs, `[organ, BINS]`, of any sum.
        outside: the same of what lies around them.
        partner: see `counterparts`.
        most: natural logarithm beyond which nothing is believed.

    Returns:
        float32 `[organ, BINS]` within ± `most`.
    """
    shares = []
    for counts in (inside + inside[partner], outside):
        smooth = ndimage.gaussian_filter1d(np.asarray(counts, np.float64), _BIN_BLUR)
        shares.append(smooth / np.maximum(smooth.sum(-1, keepdims=True), 1e-9) + _LEAST_SHARE)
    table: np.ndarray = np.clip(np.log(shares[0] / shares[1]), -most, most).astype(np.float32)
    return table
