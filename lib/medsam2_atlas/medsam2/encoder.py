"""Encodes slices, each once, and keeps their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medsam2_atlas.medsam2.preprocessing import to_network
from medsam2_atlas.progress import Progress, silent


@dataclass(frozen=True)
class SliceFeatures:
    """What the image encoder makes of slices: `levels`, from fine to coarse, each `[n, c, h, w]`."""

    levels: tuple[torch.Tensor, ...]

    @classmethod
    def stack(cls, slices: Sequence[SliceFeatures]) -> SliceFeatures:
        """Features of several slices as one batch."""
        return cls(tuple(torch.cat(level) for level in zip(*(s.levels for s in slices), strict=True)))


class FeatureStore:
    """The features of one volume's slices, made when first asked for and kept for later passes."""

    def __init__(self, network: Any, planes: Callable[[int], np.ndarray], batch: int = 4) -> None:
        """
        Args:
            network: a SAM 2.1 network.
            planes: gives slice z as 8-bit `[y, x]`.
            batch: slices encoded together.
        """
        self._network, self._planes, self._batch = network, planes, batch
        self._features: dict[int, SliceFeatures] = {}
        self.position: torch.Tensor | None = None

    def __getitem__(self, z: int) -> SliceFeatures:
        if z not in self._features:
            self.encode([z])
        return self._features[z]

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
                self._features[z] = SliceFeatures(tuple(level[n : n + 1].clone() for level in levels))
            progress("encoding slices", (start + len(part)) / len(todo))
