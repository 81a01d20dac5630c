"""Memory attention of fast mode: tokens near the organ read memories in full detail, the others read them coarsely.

All tokens of a slice pass through all layers, so that the organ is still compared with its whole surroundings. Only the
cross-attention differs, which is most of the work: far from the organ, it reads memories in which blocks of tokens are averaged
outside the organ. The score of an averaged key gets the logarithm of the number of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from medsam2_atlas.medsam2.memory_attention import FirstLayer, MemoryAttention, Read


class NearAttention(MemoryAttention):
    """The memory attention of a SAM 2.1 network on the processor, for exact and fast mode; see `MemoryAttention`."""

    def attend_near(
        self,
        first: FirstLayer,
        near: torch.Tensor,
        read: Sequence[Read],
        pooled: Sequence[Read],
        pointers: torch.Tensor | None,
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the features of a slice, conditioned on memories and object pointers.

        Args:
            first: the first layer's part of the slice.
            near: the numbers `[k]` of the tokens near the organ.
            read: the memories for tokens near the organ; old ones may be pooled.
            pooled: the same memories for the other tokens, all pooled.
            pointers: the object pointers, `[tokens, memory channels]`; None if there are none.
            positions: the position encoding of the pointers, `[1, tokens, memory channels]`; None if there are none.

        Returns:
            `[1, tokens, channels]`.
        """
        features, queries = first.features, first.queries
        far = torch.ones(features.shape[1], dtype=torch.bool, device=features.device)
        far[near] = False
        far_rows = torch.nonzero(far).flatten()
        groups = [(near, read), (far_rows, pooled)]
        values = [_values(memories, pointers) for _, memories in groups]
        biases = [_bias(memories, own) for (_, memories), own in zip(groups, values, strict=True)]
        for number, layer in enumerate(self._layers):
            if number:
                features = self._attend_to_itself(features, layer)
                queries = self._queries(features, layer)
            pointer_keys = [] if pointers is None or positions is None else [layer.keys(pointers + positions[0])]
            attended = features.new_empty(1, features.shape[1], values[0].shape[2])
            for (rows, memories), own, bias in zip(groups, values, biases, strict=True):
                if len(rows):
                    keys = torch.cat([*(self._placed(memory, number) for memory in memories), *pointer_keys])[None]
                    attended[:, rows] = self._attended(queries[:, rows], keys, own, bias).to(attended.dtype)
            features = features + layer.output(attended)
            features = features + layer.narrow(layer.wide(layer.norms[2](features)))
        result: torch.Tensor = self._norm(features)
        return result

    def _placed(self, memory: Read, number: int) -> torch.Tensor:
        """Returns the keys of a memory in a layer, with their temporal position, which is averaged like the keys."""
        temporal = self._temporal[number][memory.place]
        return memory.keys[number] + (temporal if memory.pooling is None else memory.pooling(temporal))


def _values(memories: Sequence[Read], pointers: torch.Tensor | None) -> torch.Tensor:
    """Returns the memories' tokens and the pointers, `[1, tokens, memory channels]`."""
    return torch.cat([*(memory.tokens for memory in memories), *([] if pointers is None else [pointers])])[None]


def _bias(memories: Sequence[Read], values: torch.Tensor) -> torch.Tensor | None:
    """Returns the bias `[tokens]` of the keys' scores; None if no token was averaged."""
    if all(memory.pooling is None for memory in memories):
        return None
    known = [values.new_zeros(len(m.tokens)) if m.pooling is None else m.pooling.bias.to(values.dtype) for m in memories]
    bias = torch.cat(known)
    return F.pad(bias, (0, values.shape[1] - len(bias)))
