"""Memory attention of fast mode: tokens near the organ read memories in full detail, the others read them coarsely.

All tokens of a slice pass through all layers, so that the organ is still compared with its whole surroundings. Only the
cross-attention differs, which is most of the work: far from the organ, it reads memories in which blocks of tokens are averaged
outside the organ. The score of an averaged key gets the logarithm of the number of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from medsam2_atlas.medsam2.memory_attention import FirstLayer, Keys, MemoryAttention, Read
from medsam2_atlas.medsam2.windows import Pooling


@dataclass(frozen=True)
class PooledRead:
    """A memory as tokens far from the organ read it.

    Attributes:
        tokens: the pooled memory features, `[tokens, memory channels]`.
        keys: the pooled keys.
        place: the row of the table of temporal positions.
        pooling: which tokens were averaged.
    """

    tokens: torch.Tensor
    keys: Keys
    place: int
    pooling: Pooling


class NearAttention(MemoryAttention):
    """The memory attention of a SAM 2.1 network on the processor, for exact and fast mode; see `MemoryAttention`."""

    def attend_near(
        self,
        first: FirstLayer,
        near: torch.Tensor,
        read: Sequence[Read],
        pooled: Sequence[PooledRead],
        pointers: torch.Tensor | None,
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the features of a slice, conditioned on memories and object pointers.

        Args:
            first: the first layer's part of the slice.
            near: the numbers `[k]` of the tokens near the organ.
            read: the memories for tokens near the organ.
            pooled: the same memories for the other tokens.
            pointers: the object pointers, `[tokens, memory channels]`; None if there are none.
            positions: the position encoding of the pointers, `[1, tokens, memory channels]`; None if there are none.

        Returns:
            `[1, tokens, channels]`.
        """
        features, queries = first.features, first.queries
        far = torch.ones(features.shape[1], dtype=torch.bool, device=features.device)
        far[near] = False
        far_rows = torch.nonzero(far).flatten()
        extra = [] if pointers is None else [pointers]
        values = torch.cat([*(r.tokens for r in read), *extra])[None]
        pooled_values = torch.cat([*(r.tokens for r in pooled), *extra])[None]
        bias = torch.cat([r.pooling.bias.to(values.dtype) for r in pooled])
        bias = F.pad(bias, (0, pooled_values.shape[1] - len(bias)))
        for number, layer in enumerate(self._layers):
            if number:
                features = self._attend_to_itself(features, layer)
                queries = self._queries(features, layer)
            pointer_keys = [] if pointers is None or positions is None else [layer.keys(pointers + positions[0])]
            temporal = self._temporal[number]
            keys = torch.cat([*(r.keys[number] + temporal[r.place] for r in read), *pointer_keys])[None]
            attended = features.new_empty(1, features.shape[1], values.shape[2])
            attended[:, near] = self._attended(queries[:, near], keys, values).to(attended.dtype)
            if len(far_rows):
                keys = torch.cat([*(r.keys[number] + r.pooling(temporal[r.place]) for r in pooled), *pointer_keys])[None]
                attended[:, far_rows] = self._attended(queries[:, far_rows], keys, pooled_values, bias).to(attended.dtype)
            features = features + layer.output(attended)
            features = features + layer.narrow(layer.wide(layer.norms[2](features)))
        result: torch.Tensor = self._norm(features)
        return result
