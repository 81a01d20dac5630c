"""HU histograms and their log-likelihood ratios, for the steps that use the target's intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.base.configuration import Settings
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.scoremaps.maps import ScoreMaps
from medsam2_atlas.scoremaps.tissues import TissueConfig, hu_limits, is_enhanced, possible_bins


class HistogramConfig(Settings):
    """How HU are counted."""

    min_hu: float = Field(-160.0, description="HU; lower end of the first bin, which also counts lower values: fat and air")
    max_hu: float = Field(
        350.0, description="HU; upper end of the last bin, which also counts higher values: bone and bright contrast"
    )
    bins: int = Field(60, ge=2, le=256, description="bins of a histogram: about 8 HU each, the noise of a soft kernel")
    bin_blur: float = Field(
        1.5, ge=0, description="bins; standard deviation of the Gaussian that smooths histograms, which may count few voxels"
    )
    pixel_blur: float = Field(
        1.0, ge=0, description="mm; standard deviation of the Gaussian that first removes noise from the target"
    )
    min_share: float = Field(
        1e-3, gt=0, description="share that is added to each bin of both histograms, so that a rare value has little influence"
    )
    tissues: TissueConfig = Field(TissueConfig.model_validate({}), description="the HU that organs can have")

    @property
    def edges(self) -> np.ndarray:
        """The borders of the bins in HU, ascending, `[bins + 1]`."""
        return np.linspace(self.min_hu, self.max_hu, self.bins + 1)


@dataclass(frozen=True)
class Intensities:
    """A target's intensities on the reduced grid of its score maps.

    Attributes:
        bins: the histogram bin of each voxel, `[z, y, x]` uint8, 0..`config.bins` − 1.
        pairs: the organ numbers of paired organs, which look alike.
        config: how HU are counted.
        possible: the bins that contain possible HU, by organ number, each `[bins]` bool; an organ that is missing can have all.
        enhanced: whether the target has contrast; None if unknown.
    """

    bins: np.ndarray
    pairs: Sequence[tuple[int, int]]
    config: HistogramConfig
    possible: Mapping[int, np.ndarray] = field(default_factory=dict)
    enhanced: bool | None = None

    @classmethod
    def of(cls, target: Volume, scores: ScoreMaps, pairs: Sequence[tuple[int, int]], config: HistogramConfig) -> Intensities:
        """Reduces a CT to the grid of its score maps, smooths it, and sorts its HU into bins.

        Args:
            target: the CT in HU.
            scores: its score maps, which define the reduced grid.
            pairs: the organ numbers of paired organs.
            config: how HU are counted.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(target.array)).clamp(config.min_hu, config.max_hu)
        reduced = F.avg_pool2d(pixels, scores.stride, ceil_mode=True).numpy()
        smooth = ndimage.gaussian_filter(reduced, config.pixel_blur / scores.reduced_spacing, output=reduced)
        scaled = (smooth - config.min_hu) * np.float32(config.bins / (config.max_hu - config.min_hu))
        names = organ_table()
        told = [
            (smooth[m.spans].ravel(), m.values.ravel() / 255)
            for k, m in scores.maps.items()
            if names[k].name in config.tissues.enhancing
        ]
        hu, weights = (np.concatenate(parts) for parts in zip(*told, strict=True)) if told else (np.empty(0), np.empty(0))
        enhanced = is_enhanced(hu, weights, config.tissues)
        limits = {k: hu_limits(enhanced, k, config.tissues) for k in scores.maps}
        bins = np.minimum(scaled, config.bins - 1).astype(np.uint8)
        return cls(bins, pairs, config, possible_bins(limits, config.edges), enhanced)

    def counterparts(self, organs: Sequence[int]) -> np.ndarray:
        """Returns, for each organ, the index of the other organ of its pair; its own index if there is none.

        Args:
            organs: organ numbers; the indices refer to this sequence.

        Returns:
            Integers of shape `[organ]`.
        """
        places = np.arange(len(organs))
        for pair in self.pairs:
            if set(pair) <= set(organs):
                left, right = map(organs.index, pair)
                places[[left, right]] = right, left
        return places

    def log_likelihood_ratios(
        self, inside: np.ndarray, outside: np.ndarray, organs: Sequence[int], max_evidence: float
    ) -> np.ndarray:
        """Returns the log-likelihood ratio of organ to background for each bin.

        Paired organs look alike, so they share their histograms. If registration confuses one kidney with the spleen beside it,
        the other kidney's histogram corrects that. Impossible HU do not count in an organ's histogram, and speak against it.

        Args:
            inside: the histograms of the organs, `[organ, bins]`, of any sum.
            outside: the histograms of the background near each organ, `[organ, bins]`, of any sum.
            organs: the organ numbers, in the order of the histograms.
            max_evidence: the max absolute value, natural logarithm.

        Returns:
            float32 `[organ, bins]`, natural logarithm, within ± `max_evidence`.
        """
        possible = np.ones((len(organs), self.config.bins), bool)
        for n, k in enumerate(organs):
            possible[n] = self.possible.get(k, True)
        shares = []
        for counts in ((inside + inside[self.counterparts(organs)]) * possible, outside):
            smooth = ndimage.gaussian_filter1d(np.asarray(counts, np.float64), self.config.bin_blur)
            shares.append(smooth / np.maximum(smooth.sum(-1, keepdims=True), 1e-9) + self.config.min_share)
        ratios = np.where(possible, np.log(shares[0] / shares[1]), -max_evidence)
        table: np.ndarray = np.clip(ratios, -max_evidence, max_evidence).astype(np.float32)
        return table
