"""The batched memory attention gives each slice the result that it gets alone, in float32 and in 16 bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from gpu_results import Gpu
from legacy import seeded_state
from medsam2_atlas.medsam2 import build_network
from medsam2_atlas.medsam2.arithmetic import Arithmetic
from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.memory_attention import MemoryAttention, Read

TOKENS, WIDTH = 64, 64
"""The number of tokens and channels of a memory of the narrow network."""

Slice = tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, torch.Tensor]
"""A slice's features `[1, c, h, w]`, the memories `[tokens, c]` that it reads, its pointer tokens and their positions."""


@pytest.fixture(scope="module")
def network(narrow_config: DictConfig) -> Any:
    made = build_network(narrow_config)
    made.load_state_dict(seeded_state(narrow_config))
    return made


def slices(amounts: list[tuple[int, int]]) -> list[Slice]:
    """Returns slices that read some numbers of memories and of pointer tokens."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return [
        (random(1, 256, 8, 8), [random(TOKENS, WIDTH) for _ in range(m)], random(p, WIDTH), random(p, WIDTH))
        for m, p in amounts
    ]


@torch.inference_mode()
def attended(attention: MemoryAttention, given: list[Slice]) -> torch.Tensor:
    """Returns the result of a batch of slices, `[n, tokens, c]`."""
    read = [[Read(memory, attention.keys(memory), place) for place, memory in enumerate(memories)] for _, memories, *_ in given]
    most = max(len(pointers) for _, _, pointers, _ in given)
    positions = torch.stack([torch.cat([own, own.new_ones(most - len(own), WIDTH)]) for *_, own in given])
    tops = torch.cat([top for top, *_ in given])
    first = attention.first(tops, torch.ones_like(tops[:1]))
    pointers = [own for _, _, own, _ in given] if most else []
    return attention.attend(first, read, pointers, positions if most else None)


AMOUNTS = {
    "equal amounts": [(2, 4), (2, 4)],
    "no pointers": [(1, 0), (3, 0)],
    "pointers of one slice only": [(2, 0), (2, 8)],
    "different amounts": [(1, 4), (7, 64), (3, 20)],
}


@pytest.mark.parametrize("name", AMOUNTS)
def test_slices_with_different_amounts_of_memory_do_not_affect_each_other(name: str, network: Any) -> None:
    given = slices(AMOUNTS[name])
    alone = torch.cat([attended(MemoryAttention(network), [one]) for one in given])
    together = attended(BatchedMemoryAttention(network, Arithmetic("cpu")), given)
    assert together.dtype == torch.float32
    assert torch.allclose(together, alone, atol=1e-4)


def test_16_bits_change_little_and_the_features_keep_the_weights_precision(network: Any, gpu: Gpu) -> None:
    given = slices(AMOUNTS["different amounts"])
    exact = attended(BatchedMemoryAttention(network, Arithmetic("cpu")), given)
    with gpu() as device:
        moved = [
            tuple(t.to(device) if isinstance(t, torch.Tensor) else [m.to(device) for m in t] for t in one) for one in given
        ]
        attention = BatchedMemoryAttention(copy.deepcopy(network).to(device), Arithmetic("cuda", torch.bfloat16))
        assert {keys.dtype for keys in attention.keys(moved[0][1][0])} == {torch.bfloat16}
        rounded = attended(attention, moved).cpu()  # type: ignore[arg-type]
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().mean()) < 0.05 * float(exact.abs().mean())
