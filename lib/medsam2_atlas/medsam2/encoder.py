"""Encodes each slice once and stores its features."""

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
    """The image encoder's features of n slices: `levels`, from fine to coarse, each `[n, c, h, w]`."""

    levels: tuple[torch.Tensor, ...]


class FeatureStore:
    """The features of one volume's slices, computed at first use and stored for later passes.

    Args:
        network: a SAM 2.1 network.
        planes: returns slice z, `[y, x]` uint8.
        batch: the number of slices that are encoded together.
        kept_on: the device that stores the features; by default the network's device.

    Attributes:
        position: the position encoding of the coarsest level, `[1, c, h, w]`; None before the first slice is encoded.
    """

    def __init__(
        self, network: Any, planes: Callable[[int], np.ndarray], batch: int, kept_on: torch.device | None = None
    ) -> None:
        self._network, self._planes, self._batch, self._kept_on = network, planes, batch, kept_on
        self._features: dict[int, SliceFeatures] = {}
        self.position: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._features)

    @property
    def bytes(self) -> int:
        """The memory of the stored features."""
        return sum(level.nbytes for features in list(self._features.values()) for level in features.levels)

    def stack(self, slices: Sequence[int]) -> SliceFeatures:
        """Returns the features of several slices as one batch on the network's device; encodes missing slices one by one."""
        for z in slices:
            self.encode([z])
        found = (self._features[z].levels for z in slices)
        return SliceFeatures(tuple(torch.cat(level).to(self._network.device) for level in zip(*found, strict=True)))

    @torch.inference_mode()
    def encode(self, slices: Iterable[int], progress: Progress = silent) -> None:
        """Encodes the slices whose features are not stored yet."""
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
        """Returns a copy for storage: a view of a batch would keep the whole batch in memory."""
        return level.clone() if self._kept_on is None else level.to(self._kept_on, copy=True)
