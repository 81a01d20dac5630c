"""Position encodings of SAM 2.1 whose tables lie where their network does.

sam2's own classes make their tables on the first GPU wherever there is one, even for a network on the CPU or another GPU, and
tables that they have used stay on that device. The results are the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from sam2.modeling import position_encoding
from sam2.modeling.sam import transformer


class PositionEmbeddingSine(position_encoding.PositionEmbeddingSine):
    """Sine encodings, made at the first use on the device of the features, and anew after the network has moved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"warmup_cache": False}))

    def _apply(self, *args: Any, **options: Any) -> Any:
        self.cache.clear()
        return super()._apply(*args, **options)


class RoPEAttention(transformer.RoPEAttention):
    """Attention with rotary encodings, whose table is made on the CPU and moves with the network."""

    freqs_cis: torch.Tensor

    def __init__(
        self,
        *args: Any,
        rope_theta: float = 10000.0,
        rope_k_repeat: bool = False,
        feat_sizes: tuple[int, int] = (64, 64),
        **options: Any,
    ) -> None:
        """
        Args:
            rope_theta: base of the frequencies.
            rope_k_repeat: repeat the table for keys of several slices.
            feat_sizes: columns and rows of the features.
            args, options: of sam2's `Attention`.
        """
        transformer.Attention.__init__(self, *args, **options)  # not its parent's, which asks for CUDA
        width = self.internal_dim // self.num_heads
        self.compute_cis = partial(position_encoding.compute_axial_cis, dim=width, theta=rope_theta)
        self.freqs_cis = self.compute_cis(end_x=feat_sizes[0], end_y=feat_sizes[1])
        self.rope_k_repeat = rope_k_repeat

    def _apply(self, fn: Any, *args: Any, **options: Any) -> Any:
        self.freqs_cis = fn(self.freqs_cis)
        return super()._apply(fn, *args, **options)
