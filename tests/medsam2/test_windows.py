"""Windows of tokens at the borders of a slice, and averaged tokens outside a window."""

from __future__ import annotations

import torch

from medsam2_atlas.medsam2.memory_attention import _attention
from medsam2_atlas.medsam2.windows import Pooling, Window

SIDE = 8


def mask(*pixels: tuple[int, int]) -> torch.Tensor:
    """Returns logits `[1, 32, 32]` that are positive at pixels (y, x)."""
    logits = torch.full((1, 4 * SIDE, 4 * SIDE), -1.0)
    for y, x in pixels:
        logits[0, y, x] = 1
    return logits


def test_a_window_covers_all_tokens_of_a_mask() -> None:
    assert Window.around(mask((3, 4), (9, 31)), SIDE) == Window(0, 3, 1, 8)


def test_an_empty_mask_has_no_window() -> None:
    assert Window.around(mask(), SIDE) is None


def test_a_mask_of_the_whole_slice_has_the_whole_window() -> None:
    assert Window.around(torch.ones(1, 32, 32), SIDE) == Window.whole(SIDE)


def test_a_margin_ends_at_the_borders_of_the_slice() -> None:
    assert Window(0, 2, 5, 8).grown(2, SIDE) == Window(0, 4, 3, 8)


def test_the_tokens_of_a_window_are_those_of_its_crop() -> None:
    numbers = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    window = Window(2, 5, 1, 3)
    assert window.crop(numbers).flatten().tolist() == window.tokens(SIDE).tolist() == [17, 18, 25, 26, 33, 34]


def test_a_crop_of_finer_maps_covers_the_same_part_of_the_slice() -> None:
    maps = torch.zeros(1, 1, 4 * SIDE, 4 * SIDE)
    Window(1, 2, 3, 5).crop(maps, 4)[:] = 1
    assert torch.nonzero(maps[0, 0]).aminmax(dim=0).min.tolist() == [4, 12] and int(maps.sum()) == 4 * 8


def test_pooling_keeps_or_averages_each_token_once() -> None:
    pooling = Pooling.outside(Window(3, 5, 0, 1), SIDE, 2, torch.device("cpu"))
    found = torch.cat([pooling.kept, pooling.blocks.flatten()])
    assert sorted(found.tolist()) == list(range(SIDE * SIDE))
    assert pooling.kept.tolist() == [16, 17, 24, 25, 32, 33, 40, 41], "the window grows to whole blocks"


def test_pooled_tokens_are_the_kept_ones_and_the_means_of_blocks() -> None:
    numbers = torch.arange(SIDE * SIDE, dtype=torch.float32)[:, None]
    found = Pooling.outside(Window(0, 4, 0, 8), SIDE, 4, torch.device("cpu"))(numbers)
    assert found[:32].flatten().tolist() == list(range(32))
    assert found[32:].flatten().tolist() == [45.5, 49.5]


def test_without_a_window_all_tokens_are_averaged() -> None:
    pooling = Pooling.outside(Window(0, 0, 0, 0), SIDE, 4, torch.device("cpu"))
    assert len(pooling.kept) == 0 and pooling.blocks.shape == (4, 16)


def test_attention_to_averaged_tokens_is_that_to_all_tokens_if_blocks_are_constant() -> None:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 16, 4, 4, generator=draw)
    keys = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2).transpose(1, 2)
    queries = torch.randn(1, 5, 16, generator=draw)
    pooling = Pooling.outside(Window(2, 4, 2, 6), SIDE, 2, torch.device("cpu"))
    pooled = pooling(keys[0])[None]
    torch.testing.assert_close(_attention(queries, pooled, pooled, pooling.bias), _attention(queries, keys, keys))
    assert not torch.allclose(_attention(queries, pooled, pooled), _attention(queries, keys, keys)), "the bias matters"
