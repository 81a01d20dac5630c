"""Encodes slices and stores their features, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medsam2_atlas.base.memory import in_parts
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.medsam2.memory_attention import FirstLayer
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.preprocessing import to_network


@dataclass(frozen=True)
class SliceFeatures:
    """The image encoder's features of n slices: `levels`, from fine to coarse, each `[n, c, h, w]`."""

    levels: tuple[torch.Tensor, ...]


class FeatureStore:
    """The features of one volume's slices, computed at first use and stored for later passes.

    If they need more than `max_bytes`, those not used for longest are dropped, and computed again when they are needed. What
    the memory attention computes from a slice alone is stored too, and dropped first, because it is cheaper.

    Args:
        prepared: the network.
        planes: returns slice z, `[y, x]` uint8.
        batch: the number of slices that are encoded together.
        max_bytes: the max size of the stored tensors.
        kept_on: the device that stores the features; by default the network's device.

    Attributes:
        bytes: the size of the stored tensors.
    """

    def __init__(
        self,
        prepared: PreparedNetwork,
        planes: Callable[[int], np.ndarray],
        batch: int,
        max_bytes: int,
        kept_on: torch.device | None = None,
    ) -> None:
        self._prepared, self._planes, self._batch = prepared, planes, batch
        self._max_bytes, self._kept_on = max_bytes, kept_on
        self._features: OrderedDict[int, tuple[torch.Tensor, ...]] = OrderedDict()
        self._first: OrderedDict[int, tuple[torch.Tensor, ...]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._features)

    def stack(self, slices: Sequence[int]) -> SliceFeatures:
        """Returns the features of several slices as one batch on the network's device."""
        return SliceFeatures(self._stacked([self._of(z) for z in slices]))

    def first(self, slices: Sequence[int]) -> FirstLayer:
        """Returns the first layer of the memory attention for several slices, as one batch on the network's device."""
        different = dict.fromkeys(slices)
        found = {z: self._first[z] for z in different if z in self._first}
        for z in found:
            self._first.move_to_end(z)
        new = [z for z in different if z not in found]
        if new:
            top = self._stacked([(self._of(z)[-1],) for z in new])[0]
            first = self._prepared.memory_attention.first(top, self._prepared.position)
            for n, z in enumerate(new):
                found[z] = self._keep(self._first, z, (first.features[n : n + 1], first.queries[n : n + 1]))
        return FirstLayer(*self._stacked([found[z] for z in slices]))

    @torch.inference_mode()
    def encode(self, slices: Iterable[int], progress: Progress = silent) -> None:
        """Encodes the slices whose features are not stored yet, as far as they all fit into the store."""
        todo = sorted(set(slices) - set(self._features))
        size = self._batch
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            self._batch = in_parts(part, self._batch, self._encoded)
            progress("encoding slices", (start + len(part)) / len(todo))
            if self.bytes + sum(_bytes(self._features.get(z, ())) for z in part) > self._max_bytes:
                break

    def _of(self, z: int) -> tuple[torch.Tensor, ...]:
        """Returns the features of a slice, where they are stored."""
        if z not in self._features:
            return self._encoded([z])[0]
        self._features.move_to_end(z)
        return self._features[z]

    def _encoded(self, slices: Sequence[int]) -> list[tuple[torch.Tensor, ...]]:
        size = int(self._prepared.network.image_size)
        images = to_network([self._planes(z) for z in slices], size, self._prepared.device)
        levels = self._prepared.encode(images)
        return [self._keep(self._features, z, tuple(level[n : n + 1] for level in levels)) for n, z in enumerate(slices)]

    def _keep(
        self, store: OrderedDict[int, tuple[torch.Tensor, ...]], z: int, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Stores copies of tensors and drops old ones; a view of a batch would keep the whole batch in memory."""
        kept = tuple(tensor.clone() if self._kept_on is None else tensor.to(self._kept_on, copy=True) for tensor in tensors)
        self.bytes += _bytes(kept) - _bytes(store.pop(z, ()))
        store[z] = kept
        for old in (self._first, self._features):
            while self.bytes > self._max_bytes and old:
                self.bytes -= _bytes(old.popitem(last=False)[1])
        return kept

    def _stacked(self, items: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        if len(items) == 1:
            return tuple(tensor.to(self._prepared.device) for tensor in items[0])
        return tuple(torch.cat(tensors).to(self._prepared.device) for tensors in zip(*items, strict=True))


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
