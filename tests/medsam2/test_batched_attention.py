"""Slices that read different amounts of memory get the same features in one batch as alone."""

from __future__ import annotations

import pytest
import torch
from omegaconf import DictConfig

from legacy import seeded_state
from medsam2_atlas.medsam2 import build_network
from medsam2_atlas.medsam2.arithmetic import Arithmetic
from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.memory_attention import FirstLayer, MemoryAttention, Read

TOKENS, WIDTH, MEMORY_WIDTH = 64, 256, 64


@pytest.fixture(scope="module")
def both(narrow_config: DictConfig) -> tuple[MemoryAttention, BatchedMemoryAttention]:
    """Returns the memory attentions of the CPU and of GPUs, with the same weights."""
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return MemoryAttention(network), BatchedMemoryAttention(network, Arithmetic("cpu"))


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def a_first(count: int, attention: MemoryAttention, draw: torch.Generator) -> FirstLayer:
    return attention.first(torch.randn(count, WIDTH, 8, 8, generator=draw), torch.zeros(1, WIDTH, 8, 8))


def reads(attention: MemoryAttention, places: tuple[int, ...], draw: torch.Generator) -> list[Read]:
    tokens = [torch.randn(TOKENS, MEMORY_WIDTH, generator=draw) for _ in places]
    return [Read(t, attention.keys(t), place) for t, place in zip(tokens, places, strict=True)]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("places", "pointers"),
    [
        (((6,), (6, 5, 4), (6, 6)), (4, 12, 8)),
        (((6, 5), (6, 4)), (4, 4)),
        (((6,), (6, 5)), (4, 4)),
        (((6, 5), (6, 5)), (0, 8)),
        (((6,), (6, 5)), ()),
    ],
    ids=["all differ", "the same amounts", "memories differ", "no pointer of the first", "no pointers"],
)
def test_padding_does_not_change_a_slice(
    places: tuple[tuple[int, ...], ...],
    pointers: tuple[int, ...],
    both: tuple[MemoryAttention, BatchedMemoryAttention],
    draw: torch.Generator,
) -> None:
    usual, batched = both
    first = a_first(len(places), usual, draw)
    read = [reads(usual, own, draw) for own in places]
    tokens = [torch.randn(count, MEMORY_WIDTH, generator=draw) for count in pointers]
    positions = [torch.randn(max(pointers), MEMORY_WIDTH, generator=draw) for _ in pointers]
    found = batched.attend(first, read, tokens, torch.stack(positions) if pointers else None)
    for n, own in enumerate(read):
        part = FirstLayer(first.features[n : n + 1], first.queries[n : n + 1])
        has = bool(pointers and pointers[n])
        alone = usual.attend(part, [own], tokens[n : n + 1] if has else [], positions[n][None, : pointers[n]] if has else None)
        assert torch.allclose(found[n], alone[0], atol=1e-4), n


@torch.inference_mode()
def test_keys_of_several_memories_are_those_of_each(
    both: tuple[MemoryAttention, BatchedMemoryAttention], draw: torch.Generator
) -> None:
    usual, batched = both
    tokens = torch.randn(3, TOKENS, MEMORY_WIDTH, generator=draw)
    together = batched.keys(tokens)
    for n, own in enumerate(tokens):
        assert all(torch.allclose(layer[n], keys, atol=1e-5) for layer, keys in zip(together, usual.keys(own), strict=True))


def test_equal_amounts_need_no_mask(both: tuple[MemoryAttention, BatchedMemoryAttention]) -> None:
    _, batched = both
    assert batched._mask([2, 2], [4, 4], TOKENS) is None
    mask = batched._mask([1, 2], [4, 0], 3)
    assert mask is not None
    assert mask[:, 0, 0].int().tolist() == [[1, 1, 1, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]]
