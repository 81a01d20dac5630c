"""Memory attention: conditions a slice's features on the memories and object pointers of other slices.

It computes what sam2's `MemoryAttention` computes, with less work for many organs and slices:

- The keys of a memory are projected and rotated once, when the memory is first read. The temporal position is added to the
  rotated keys, since projection and rotation are linear.
- The projections of values and output are one matrix each: softmax(QKᵀ)·M is computed with the memories M themselves, which
  have a quarter of the channels.
- The first layer's self-attention does not depend on memories. It is computed once per slice (`first`).
- Query rows are processed in chunks, whose scores stay in the processor's cache.

Rotary encodings turn pairs of channels. Here, the channels of queries and keys are reordered so that the first members of all
pairs come first; products of queries and keys do not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import RoPEAttention
from torch import nn

from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.medsam2.linear import Linear, backend_of, product
from medsam2_atlas.medsam2.windows import Pooling

_CHUNK = 2**21
"""Max number of scores that are computed together on the CPU."""
_INPUT_POSITION = 0.1
"""Weight of the position encoding that sam2 adds to the features."""

Keys = tuple[torch.Tensor, ...]
"""The rotated keys of a memory, `[tokens, channels]` for each layer, without temporal position."""


@dataclass(frozen=True)
class FirstLayer:
    """What the first layer computes from a slice alone.

    Attributes:
        features: the features after self-attention, `[n, tokens, channels]`.
        queries: the queries of the first cross-attention, `[n, tokens, channels]`.
    """

    features: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Read:
    """A memory as a slice reads it.

    Attributes:
        tokens: the memory features, `[tokens, memory channels]`.
        keys: the keys of these tokens.
        place: the row of the table of temporal positions.
        pooling: which tokens were averaged; None by default: none.
    """

    tokens: torch.Tensor
    keys: Keys
    place: int
    pooling: Pooling | None = None


class _Layer:
    """The weights of one layer, folded."""

    def __init__(self, layer: Any, order: torch.Tensor) -> None:
        own, cross = layer.self_attn, layer.cross_attn_image
        scale = 1 / math.sqrt(own.internal_dim)
        self.norms = (layer.norm1, layer.norm2, layer.norm3)
        self.own_queries_keys = Linear(
            torch.cat([own.q_proj.weight[order] * scale, own.k_proj.weight[order]]),
            torch.cat([own.q_proj.bias[order] * scale, own.k_proj.bias[order]]),
        )
        self.own_output = _folded(own.out_proj, own.v_proj)
        self.queries = Linear(cross.q_proj.weight[order] * scale, cross.q_proj.bias[order] * scale)
        self.keys = Linear(cross.k_proj.weight[order], cross.k_proj.bias[order])
        self.output = _folded(cross.out_proj, cross.v_proj)
        self.wide = Linear(layer.linear1.weight, layer.linear1.bias, "relu")
        self.narrow = Linear(layer.linear2.weight, layer.linear2.bias)

    def halve(self, half: torch.dtype) -> None:
        """Rounds the weights to a 16-bit format; norms keep their precision."""
        for part in vars(self).values():
            if isinstance(part, Linear):
                part.halve(half)


class MemoryAttention:
    """The memory attention of a SAM 2.1 network.

    Args:
        network: the network, in evaluation mode.
        half: the 16-bit format of matrix products; None by default: all has the weights' precision.

    Raises:
        WeightsError: if the network's memory attention differs from that of SAM 2.1.
    """

    def __init__(self, network: Any, half: torch.dtype | None = None) -> None:
        attention = network.memory_attention
        _check(attention)
        self._norm = attention.norm
        side, width = int(network.sam_image_embedding_size), int(attention.d_model)
        order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)]).to(attention.norm.weight.device)
        self._layers = [_Layer(layer, order) for layer in attention.layers]
        turns = attention.layers[0].cross_attn_image.compute_cis(end_x=side, end_y=side)
        like = attention.norm.weight
        self._cos, self._sin = (part.contiguous().to(like.device, like.dtype) for part in (turns.real, turns.imag))
        blank = torch.zeros(1, network.mem_dim, side, side, device=like.device, dtype=like.dtype)
        self._position = _tokens(network.memory_encoder.position_encoding(blank).to(like.dtype))[0]
        temporal = network.maskmem_tpos_enc.detach().flatten(1)
        self._temporal = [
            [self._rotated(F.linear(place, layer.keys.weight).expand(side * side, -1)) for place in temporal]
            for layer in self._layers
        ]
        self._half = half
        if half is not None:
            for layer in self._layers:
                layer.halve(half)

    def first(self, top: torch.Tensor, position: torch.Tensor) -> FirstLayer:
        """Returns the first layer's part that depends on slices alone.

        Args:
            top: the coarsest features of n slices, `[n, c, h, w]`.
            position: their position encoding, `[1, c, h, w]`.
        """
        layer = self._layers[0]
        features = self._attend_to_itself(_tokens(top + _INPUT_POSITION * position), layer)
        return FirstLayer(features, self._queries(features, layer))

    def keys(self, tokens: torch.Tensor) -> Keys:
        """Returns the keys of a memory `[tokens, memory channels]`."""
        placed = tokens + self._position
        return tuple(self._rotated(layer.keys(placed)) for layer in self._layers)

    def attend(
        self,
        first: FirstLayer,
        read: Sequence[Sequence[Read]],
        pointers: Sequence[torch.Tensor],
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the features of n slices, conditioned on memories and object pointers.

        Args:
            first: the first layer's part of the slices.
            read: the memories of each slice; all slices have the same number of memories.
            pointers: the object pointers of each slice, `[tokens, memory channels]`; empty if there are none.
            positions: the position encoding of the pointers, `[n, tokens, memory channels]`; None if there are none.

        Returns:
            `[n, tokens, channels]`.
        """
        features, queries = first.features, first.queries
        values = torch.stack([torch.cat([*(r.tokens for r in own), *pointers[n : n + 1]]) for n, own in enumerate(read)])
        for number, layer in enumerate(self._layers):
            if number:
                features = self._attend_to_itself(features, layer)
                queries = self._queries(features, layer)
            extra = [] if positions is None else layer.keys(torch.stack(list(pointers)) + positions)
            keys = torch.stack(
                [
                    torch.cat([*(r.keys[number] + self._temporal[number][r.place] for r in own), *extra[n : n + 1]])
                    for n, own in enumerate(read)
                ]
            )
            features = features + layer.output(self._attended(queries, keys, values))
            features = features + layer.narrow(layer.wide(layer.norms[2](features)))
        result: torch.Tensor = self._norm(features)
        return result

    def _attend_to_itself(self, features: torch.Tensor, layer: _Layer) -> torch.Tensor:
        normed = layer.norms[0](features)
        queries, keys = layer.own_queries_keys(normed).chunk(2, -1)
        return features + layer.own_output(self._attended(self._rotated(queries), self._rotated(keys), normed))

    def _attended(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns `_attention` in the precision of the matrix products."""
        if self._half is None:
            return _attention(queries, keys, values, bias)
        rounded = None if bias is None else bias.to(self._half)
        return _attention(queries.to(self._half), keys.to(self._half), values.to(self._half), rounded)

    def _queries(self, features: torch.Tensor, layer: _Layer) -> torch.Tensor:
        return self._rotated(layer.queries(layer.norms[1](features)))

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the rotary encoding to queries or keys `[..., tokens, channels]`."""
        a, b = x.chunk(2, -1)
        return torch.cat([torch.addcmul(a * self._cos, b, self._sin, value=-1), torch.addcmul(a * self._sin, b, self._cos)], -1)


def _attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns softmax(QKᵀ + bias)·V of scaled queries, `[n, queries, value channels]`; the bias of keys is `[keys]`."""
    if queries.device.type != "cpu":
        mask = None if bias is None else bias.expand(1, 1, queries.shape[1], -1)
        return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None], mask, scale=1.0)[:, 0]
    backend = backend_of(queries)
    found = []
    for q, k, v in zip(queries, keys, values, strict=True):
        columns = v.T
        parts = []
        for rows in q.split(max(1, _CHUNK // len(k))):
            scores = product(rows, k, backend, bias)
            parts.append(product(torch.softmax(scores, -1, out=scores), columns, backend))
        found.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return found[0][None] if len(found) == 1 else torch.stack(found)


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    """Returns feature maps `[n, c, h, w]` as tokens `[n, h·w, c]`."""
    return maps.flatten(2).transpose(1, 2).contiguous()


def _folded(outer: nn.Linear, inner: nn.Linear) -> Linear:
    """Returns the layer outer(inner(x)); the factors are multiplied in float64."""
    weight, bias = outer.weight.double(), outer.bias.double()
    folded, shift = weight @ inner.weight.double(), weight @ inner.bias.double() + bias
    return Linear(folded.to(outer.weight.dtype), shift.to(outer.weight.dtype))


def _check(attention: Any) -> None:
    """Raises a WeightsError if a memory attention is not built as in SAM 2.1, which the folded weights rely on."""
    usual = attention.pos_enc_at_input and attention.batch_first
    for layer in attention.layers:
        usual = usual and not layer.pos_enc_at_attn and not layer.pos_enc_at_cross_attn_queries
        usual = usual and layer.pos_enc_at_cross_attn_keys and layer.activation_str == "relu"
        for part in (layer.self_attn, layer.cross_attn_image):
            usual = usual and isinstance(part, RoPEAttention) and part.num_heads == 1
            usual = usual and part.internal_dim == attention.d_model
    if not usual:
        raise WeightsError(
            "network configuration",
            "has a memory attention that is not that of SAM 2.1.",
            "Use one head and the position encodings of configs/medsam2/.",
        )
