"""Position encodings of SAM 2.1 with tables on the device of their network.

sam2's own classes make their tables on the first GPU of the machine, even for a network on the CPU or on another GPU, and the
tables stay there. The results are the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from sam2.modeling import position_encoding
from sam2.modeling.sam import transformer


class PositionEmbeddingSine(position_encoding.PositionEmbeddingSine):
    """Sine encodings, made at first use on the device of the features, and again after the network has moved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"warmup_cache": False}))

    def _apply(self, *args: Any, **options: Any) -> Any:
        self.cache.clear()
        return super()._apply(*args, **options)


class RoPEAttention(transformer.RoPEAttention):
    """Attention with rotary encodings; their table is made on the CPU and moves with the network.

    Args:
        args: positional arguments of sam2's `Attention`.
        rope_theta: the base of the frequencies.
        rope_k_repeat: whether the table is repeated for keys of several slices.
        feat_sizes: the columns and rows of the features.
        options: keyword arguments of sam2's `Attention`.
    """

    freqs_cis: torch.Tensor

    def __init__(
        self,
        *args: Any,
        rope_theta: float = 10000.0,
        rope_k_repeat: bool = False,
        feat_sizes: tuple[int, int] = (64, 64),
        **options: Any,
    ) -> None:
        transformer.Attention.__init__(self, *args, **options)  # skips the parent's constructor, which uses CUDA
        width = self.internal_dim // self.num_heads
        self.compute_cis = partial(position_encoding.compute_axial_cis, dim=width, theta=rope_theta)
        self.freqs_cis = self.compute_cis(end_x=feat_sizes[0], end_y=feat_sizes[1])
        self.rope_k_repeat = rope_k_repeat

    def _apply(self, fn: Any, *args: Any, **options: Any) -> Any:
        self.freqs_cis = fn(self.freqs_cis)
        return super()._apply(fn, *args, **options)
