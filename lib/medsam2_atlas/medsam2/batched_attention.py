"""Memory attention of many organs and directions at once, for GPUs.

A GPU spends more time on starting operators than on small ones, so all tracks of a step form one batch, even if they read
different numbers of memories and pointers: shorter lists are padded, and a mask hides the padding. In 16 bits, PyTorch's
attention kernels compute softmax(QKᵀ)·V without storing the scores. The kernel for values that have fewer channels than keys
(memory-efficient attention) is used for memories, since their values have a quarter of the keys' channels. FlashAttention takes
no mask; with the values padded to the keys' channels and no mask, it needs two thirds of the time (`bench/gpu_engine.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from medsam2_atlas.medsam2.arithmetic import Arithmetic, in_own_arithmetic
from medsam2_atlas.medsam2.memory_attention import FirstLayer, Keys, MemoryAttention, Read
from medsam2_atlas.medsam2.uploads import uploaded


class BatchedMemoryAttention(MemoryAttention):
    """The memory attention of a SAM 2.1 network, for batches of slices that read different amounts of memory.

    Args:
        network: the network, in evaluation mode.
        arithmetic: the precision of the matrix products. Features between layers always have the weights' precision.
    """

    def __init__(self, network: Any, arithmetic: Arithmetic) -> None:
        super().__init__(network, arithmetic.half)
        self.arithmetic = arithmetic
        self._tables = [arithmetic.rounded(torch.stack(places)) for places in self._temporal]
        self._temporal = []

    @in_own_arithmetic
    def first(self, top: torch.Tensor, position: torch.Tensor) -> FirstLayer:
        """Returns the first layer's part that depends on slices alone.

        Args:
            top: see `MemoryAttention.first`, `[n, c, h, w]`.
            position: see `MemoryAttention.first`, `[1, c, h, w]`.
        """
        found = super().first(top, position)
        return FirstLayer(found.features, self.arithmetic.rounded(found.queries))

    @in_own_arithmetic
    def keys(self, tokens: torch.Tensor) -> Keys:
        """Returns the keys of memories, for each layer `[..., tokens, channels]`.

        Args:
            tokens: the memories' features, `[..., tokens, memory channels]`.
        """
        return tuple(self.arithmetic.rounded(keys) for keys in super().keys(tokens))

    @in_own_arithmetic
    def attend(
        self,
        first: FirstLayer,
        read: Sequence[Sequence[Read]],
        pointers: Sequence[torch.Tensor],
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the features of n slices, conditioned on memories and object pointers; see `MemoryAttention.attend`.

        Args:
            first: the first layer's part of the slices.
            read: the memories of each slice, at least one; slices may have different numbers of them.
            pointers: the object pointers of each slice, `[tokens, memory channels]`; slices may have different numbers of them.
                Empty if there are none.
            positions: the position encoding of the pointers, `[n, max tokens, memory channels]`; None if there are none.

        Returns:
            `[n, tokens, channels]`.
        """
        count, most = len(read), max(map(len, read))
        padded = [read_ for own in read for read_ in (*own, *[own[0]] * (most - len(own)))]
        mask = self._mask([len(own) for own in read], [len(own) for own in pointers], len(padded[0].tokens))
        values = torch.stack([r.tokens for r in padded]).view(count, -1, padded[0].tokens.shape[-1])
        extra = None
        if positions is not None:
            extra = pad_sequence([self.arithmetic.rounded(own) for own in pointers], batch_first=True)
            values = torch.cat([values, extra], 1)
            extra = extra + positions
        features, queries = first.features, first.queries
        places = uploaded(torch.tensor([r.place for r in padded]), self._position.device)
        for number, layer in enumerate(self._layers):
            if number:
                features = self._attend_to_itself(features, layer)
                queries = self._queries(features, layer)
            keys = torch.stack([r.keys[number] for r in padded])
            keys = keys.add_(self._tables[number][places]).view(count, -1, keys.shape[-1])
            if extra is not None:
                keys = torch.cat([keys, layer.keys(extra)], 1)
            found = F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None], mask, scale=1.0)
            features = features + layer.output(found[:, 0])
            features = features + layer.narrow(layer.wide(layer.norms[2](features)))
        result: torch.Tensor = self._norm(features)
        return result

    def _mask(self, memories: Sequence[int], pointers: Sequence[int], tokens: int) -> torch.Tensor | None:
        """Returns which keys the queries of n slices see, `[n, 1, 1, keys]`; None if there is no padding.

        Args:
            memories: the number of memories of each slice.
            pointers: the number of pointer tokens of each slice; empty if there are none.
            tokens: the number of tokens of a memory.
        """
        parts = [(numbers, width) for numbers, width in ((memories, tokens), (pointers, 1)) if numbers]
        if all(len(set(numbers)) == 1 for numbers, _ in parts):
            return None
        device = self._position.device
        ends = uploaded(torch.tensor([[number * width for number in numbers] for numbers, width in parts]), device)
        seen = [torch.arange(max(n) * width, device=device) < end[:, None] for (n, width), end in zip(parts, ends, strict=True)]
        return torch.cat(seen, 1)[:, None, None]
