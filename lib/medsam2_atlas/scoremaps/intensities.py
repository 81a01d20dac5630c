"""Histograms of HU, and the evidence that they give, for the steps that use the target's intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.scoremaps.maps import ScoreMaps


class HistogramConfig(Settings):
    """How HU are counted."""

    min_hu: float = Field(-160.0, description="HU of the first bin, and below it: fat and air")
    max_hu: float = Field(350.0, description="HU of the last bin, and above it: bone and bright contrast")
    bins: int = Field(60, ge=2, le=256, description="of a histogram: about 8 HU each, the noise of a soft kernel")
    bin_blur: float = Field(
        1.5, ge=0, description="bins; a histogram of few voxels is smoothed by a Gaussian of this deviation"
    )
    pixel_blur: float = Field(1.0, ge=0, description="mm; deviation of the Gaussian that takes noise from the target first")
    min_share: float = Field(1e-3, gt=0, description="added to both histograms: a value that was hardly seen says little")


@dataclass(frozen=True)
class Intensities:
    """A target's intensities on the reduced grid of its score maps.

    bins: each voxel's place in a histogram, uint8 `[z, y, x]`, 0..`config.bins` − 1. pairs: labels of organs that look alike.
    """

    bins: np.ndarray
    pairs: Sequence[tuple[int, int]]
    config: HistogramConfig

    @classmethod
    def of(cls, target: Volume, scores: ScoreMaps, pairs: Sequence[tuple[int, int]], config: HistogramConfig) -> Intensities:
        """Reduces and smooths a CT on the grid of its score maps, and sorts its HU into bins."""
        pixels = torch.from_numpy(np.ascontiguousarray(target.array)).clamp(config.min_hu, config.max_hu)
        reduced = F.avg_pool2d(pixels, scores.stride, ceil_mode=True).numpy()
        smooth = ndimage.gaussian_filter(reduced, config.pixel_blur / scores.reduced_spacing, output=reduced)
        scaled = (smooth - config.min_hu) * np.float32(config.bins / (config.max_hu - config.min_hu))
        return cls(np.minimum(scaled, config.bins - 1).astype(np.uint8), pairs, config)

    def counterparts(self, organs: Sequence[int]) -> np.ndarray:
        """Returns the index of each organ's counterpart of a pair among the organs; its own index if there is none."""
        places = np.arange(len(organs))
        for pair in self.pairs:
            if set(pair) <= set(organs):
                left, right = map(organs.index, pair)
                places[[left, right]] = right, left
        return places

    def log_likelihood_ratios(
        self, inside: np.ndarray, outside: np.ndarray, partner: np.ndarray, max_evidence: float
    ) -> np.ndarray:
        """Returns the evidence of each bin for an organ: the logarithm of its histograms' ratio.

        Paired organs look alike, so they share their histograms: a kidney that registration takes for the spleen beside
        it is led back by the other kidney.

        Args:
            inside: histograms of organs, `[organ, bins]`, of any sum.
            outside: the same of what lies around them.
            partner: see `counterparts`.
            max_evidence: highest evidence, natural logarithm.

        Returns:
            float32 `[organ, bins]` within ± `max_evidence`.
        """
        shares = []
        for counts in (inside + inside[partner], outside):
            smooth = ndimage.gaussian_filter1d(np.asarray(counts, np.float64), self.config.bin_blur)
            shares.append(smooth / np.maximum(smooth.sum(-1, keepdims=True), 1e-9) + self.config.min_share)
        table: np.ndarray = np.clip(np.log(shares[0] / shares[1]), -max_evidence, max_evidence).astype(np.float32)
        return table
