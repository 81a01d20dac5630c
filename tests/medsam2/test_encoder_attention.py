"""The encoder's attention as plain operations equals sam2's."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from torch import nn

from medsam2_atlas.medsam2.encoder_attention import PlainAttention


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2, 2)])
def test_plain_attention_equals_the_fused_one(pool: nn.Module | None) -> None:
    torch.manual_seed(0)
    attention = MultiScaleAttention(16, 32, 2, pool)
    x = torch.randn(3, 4, 6, 16)
    with torch.inference_mode():
        torch.testing.assert_close(PlainAttention(attention)(x), attention(x))
