"""In fast mode on a GPU, the network computes in 16 bits, and nothing else does; in exact mode, it never does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn

from equality import BOX, boxes, ct
from legacy import seeded_state
from mask_dice import mask_dice
from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network
from medsam2_atlas.medsam2.arithmetic import Arithmetic, halve_weights, in_own_arithmetic
from medsam2_atlas.medsam2.linear import Linear
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks
from pretended_gpu import pretended_gpu

GPU = torch.device("cuda:0")
HALVES = {(8, 0): torch.bfloat16, (7, 5): torch.float16}
PROMPT = boxes(0, 4, 1, 2, 3)
MARKED = MarkedOrgan(1, 1, 4, (SliceMarks(2, BOX),), ())


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


def autocast() -> bool:
    """Returns whether autocast is on; on a pretended GPU, it is that of the CPU."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Returns a list that gets the formats of all attentions, as they are computed."""
    found: list[torch.dtype] = []
    attention = F.scaled_dot_product_attention

    def watched(*args: Any, **options: Any) -> torch.Tensor:
        result = attention(*args, **options)
        found.append(result.dtype)
        return result

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    return found


@pytest.mark.parametrize("capability", HALVES, ids=str)
def test_fast_mode_on_a_gpu_computes_in_16_bits_and_gives_float32(
    capability: tuple[int, int], weights: Weights, products: list[torch.dtype]
) -> None:
    exact = MedSAM2Volume(weights, ct(5)).segment([PROMPT])[1].values
    products.clear()
    with pretended_gpu(capability=capability):
        engine = MedSAM2Volume(weights.on(GPU), ct(5), mode="fast")
        found = engine.segment([PROMPT])[1].values
        levels = engine._features.stack([2]).levels
    assert set(products) == {HALVES[capability]}
    assert {level.dtype for level in levels} == {HALVES[capability]}
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert not torch.equal(found, exact)
    dice = [mask_dice(a, b) for a, b in zip((found > 0).numpy(), (exact > 0).numpy(), strict=True)]
    assert np.median(dice) > 0.97  # in single slices, another of the random network's candidates may win


@pytest.mark.parametrize(("mode", "capability"), [("exact", (8, 0)), ("fast", (6, 1))])
def test_exact_mode_and_old_cards_compute_in_float32(
    mode: Any, capability: tuple[int, int], weights: Weights, products: list[torch.dtype]
) -> None:
    with pretended_gpu(capability=capability):
        on_card = weights.on(GPU)
        MedSAM2Volume(on_card, ct(3), mode=mode).segment([boxes(0, 2, 1)])
        assert on_card.prepared_for(mode) is on_card.prepared
    assert set(products) == {torch.float32}


def test_the_caller_s_autocast_does_not_reach_the_network(weights: Weights) -> None:
    usual = MedSAM2Volume(weights, ct(3)).segment([boxes(0, 2, 1)])[1].values
    with torch.autocast("cpu", torch.bfloat16):
        found = MedSAM2Volume(weights, ct(3)).segment([boxes(0, 2, 1)])[1].values
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found, usual)


def test_what_the_engine_calls_back_and_its_caller_see_no_autocast(weights: Weights) -> None:
    seen: list[bool] = []

    def mend(z: int, logits: torch.Tensor) -> torch.Tensor:
        seen.append(autocast() or logits.dtype != torch.float32)
        return logits

    with pretended_gpu():
        engine = MedSAM2Volume(weights.on(GPU), ct(6), mode="fast")
        engine.segment_marked(MARKED, patience=2, mend=mend, progress=lambda *_: seen.append(autocast()))
        assert not autocast()
    assert len(seen) > 5
    assert not any(seen)


def test_autocast_ends_even_if_the_network_fails(weights: Weights) -> None:
    with pretended_gpu() as machine:
        engine = MedSAM2Volume(weights.on(GPU), ct(3), mode="fast")
        machine.cards[0].fail(lambda: RuntimeError("CUDA error: unspecified launch failure"), after=200)
        with pytest.raises(RuntimeError, match="launch failure"):
            engine.segment([boxes(0, 2, 1)])
        assert not autocast()


def test_numbers_beyond_float16_are_reported_with_a_remedy(weights: Weights) -> None:
    with pretended_gpu(capability=(7, 5)):
        engine = MedSAM2Volume(weights.on(GPU), ct(3), mode="fast")
        assert engine._result([torch.zeros(1, 2, 2, device=GPU)]).shape == (1, 2, 2)
        with pytest.raises(WeightsError, match=r"float16.*Use the exact mode"):
            engine._result([torch.full((1, 2, 2), float("inf"), device=GPU)])


def test_weights_are_halved_without_changing_the_network_that_shares_them(weights: Weights) -> None:
    with pretended_gpu():
        on_card = weights.on(GPU)
        fast, exact = on_card.prepared_for("fast"), on_card.prepared_for("exact")
        assert {p.dtype for p in on_card.network.parameters()} == {torch.float32}
        assert {p.dtype for p in exact.network.parameters()} == {torch.float32}
        assert fast.network.sam_mask_decoder.conv_s0.weight.dtype == torch.bfloat16
        assert fast.network.image_encoder.trunk.blocks[0].norm1.weight.dtype == torch.float32
        assert fast.network.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.dtype == torch.float32
        assert on_card.prepared_for("fast") is fast


def test_each_kind_of_layer_with_a_product_is_halved_and_no_other() -> None:
    own = Linear(torch.rand(4, 4), torch.rand(4))
    part = nn.ModuleList([own, nn.Linear(4, 4), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 2), nn.LayerNorm(4)])
    halve_weights(part, torch.float16)
    assert [module.weight.dtype for module in part] == [torch.float16] * 4 + [torch.float32]
    assert own.bias.dtype == torch.float16


def test_a_method_runs_in_the_arithmetic_of_its_object() -> None:
    class Product(SimpleNamespace):
        @in_own_arithmetic
        def __call__(self, x: torch.Tensor) -> torch.dtype:
            return (x @ x).dtype

    square = torch.eye(4)
    assert Product(arithmetic=Arithmetic("cpu", torch.bfloat16))(square) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert Product(arithmetic=Arithmetic("cpu"))(square) == torch.float32
