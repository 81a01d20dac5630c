"""Encodes slices, each once, and keeps their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.medsam2.preprocessing import to_network


@dataclass(frozen=True)
class SliceFeatures:
    """What the image encoder makes of slices: `levels`, from fine to coarse, each `[n, c, h, w]`."""

    levels: tuple[torch.Tensor, ...]


class FeatureStore:
    """The features of one volume's slices, made when first asked for and kept for later passes."""

    def __init__(
        self, network: Any, planes: Callable[[int], np.ndarray], batch: int, kept_on: torch.device | None = None
    ) -> None:
        """
        Args:
            network: a SAM 2.1 network.
            planes: gives slice z as 8-bit `[y, x]`.
            batch: slices encoded together.
            kept_on: where features are kept; by default where the network lies.
        """
        self._network, self._planes, self._batch, self._kept_on = network, planes, batch, kept_on
        self._features: dict[int, SliceFeatures] = {}
        self.position: torch.Tensor | None = None

    def stack(self, slices: Sequence[int]) -> SliceFeatures:
        """Features of several slices as one batch, where the network lies."""
        for z in slices:  # those that nobody has asked to encode together
            self.encode([z])
        found = (self._features[z].levels for z in slices)
        return SliceFeatures(tuple(torch.cat(level).to(self._network.device) for level in zip(*found, strict=True)))

    @torch.inference_mode()
    def encode(self, slices: Iterable[int], progress: Progress = silent) -> None:
        """Encodes those of the slices that have not been encoded yet."""
        todo = sorted(set(slices) - set(self._features))
        size = int(self._network.image_size)
        for start in range(0, len(todo), self._batch):
            part = todo[start : start + self._batch]
            images = to_network([self._planes(z) for z in part], size).to(self._network.device)
            encoded = self._network.forward_image(images)
            levels = encoded["backbone_fpn"][-self._network.num_feature_levels :]
            self.position = encoded["vision_pos_enc"][-1][:1]
            for n, z in enumerate(part):
                self._features[z] = SliceFeatures(tuple(self._kept(level[n : n + 1]) for level in levels))
            progress("encoding slices", (start + len(part)) / len(todo))

    def _kept(self, level: torch.Tensor) -> torch.Tensor:
        """Returns a copy of its own: a part of a batch would keep the whole batch."""
        return level.clone() if self._kept_on is None else level.to(self._kept_on, copy=True)
