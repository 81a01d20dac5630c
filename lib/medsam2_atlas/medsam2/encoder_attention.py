"""The encoder's attention as three plain operations, for 16-bit products on the processor.

PyTorch's fused attention converts 16-bit blocks to float32 on processors without AMX. Two batched products and a softmax take
about half of its time. The scores of a window are small enough for the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
from sam2.modeling.backbones.hieradet import do_pool
from torch import nn


class PlainAttention(nn.Module):
    """The attention of a block of Hiera.

    Args:
        attention: sam2's attention, whose layers are shared.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.q_pool = int(attention.num_heads), attention.q_pool
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the attended features `[windows, h, w, c]` of windows; with pooled queries, h and w are halved."""
        count, height, width, _ = x.shape
        queries, keys, values = self.qkv(x).view(count, height * width, 3, -1).unbind(2)
        if self.q_pool:
            pooled = do_pool(queries.reshape(count, height, width, -1), self.q_pool)
            height, width = pooled.shape[1:3]
            queries = pooled.reshape(count, height * width, -1)
        with torch.autocast(x.device.type, enabled=False):  # it would run the softmax in float32
            queries, keys, values = (self._by_head(part) for part in (queries, keys, values))
            empty = torch.empty((), dtype=queries.dtype, device=queries.device)
            scores = torch.baddbmm(empty, queries, keys.transpose(1, 2), beta=0, alpha=queries.shape[-1] ** -0.5)
            attended = torch.bmm(torch.softmax(scores, -1), values)
        merged = attended.view(count, self.heads, height * width, -1).transpose(1, 2)
        result: torch.Tensor = self.proj(merged.reshape(count, height, width, -1))
        return result

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns tokens `[windows, tokens, c]` as `[windows · heads, tokens, c / heads]`."""
        parts = tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)
        return parts.reshape(-1, *parts.shape[2:])
