"""Fast mode on a GPU: 16 bits inside the engine only, float32 logits, and few waits; exact mode keeps its precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from equality import boxes, ct
from gpu_results import Gpu
from legacy import seeded_state
from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network
from medsam2_atlas.prompting import OrganPrompt
from pretended_gpu import errors, pretended_gpu

GPU = torch.device("cuda:0")
MAX_ROUNDING = 0.1
"""Max mean error of 16 bits on slices with boxes, as a share of the mean logit.

Masks of random weights are noise, and memories carry their errors on, so other slices are not compared.
"""


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


def prompts(last: int) -> list[OrganPrompt]:
    """Returns two organs, which read different numbers of memories."""
    first, second = boxes(0, last, 0, 2, last), boxes(1, last, 2)
    return [OrganPrompt(label, p.z_min, p.z_max, p.boxes) for label, p in enumerate((first, second), 1)]


def logits(weights: Weights, mode: Mode, last: int = 5, progress: Progress = silent) -> torch.Tensor:
    found = MedSAM2Volume(weights, ct(last + 1), mode=mode).segment(prompts(last), progress=progress)
    return torch.cat([organ.values for organ in found.values()])


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Returns the mean error of logits `[n, h, w]` on the slices with boxes, as a share of the mean logit."""
    boxed = [0, 2, 5, 7]
    return float((found[boxed] - exact[boxed]).abs().mean() / exact[boxed].abs().mean())


@pytest.mark.parametrize(("capability", "half"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)])
def test_fast_mode_has_16_bits_inside_the_engine_and_gives_float32(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], half: torch.dtype
) -> None:
    exact = logits(weights, "exact")
    seen, outside = set[torch.dtype](), set[bool]()
    usual = F.scaled_dot_product_attention

    def attention(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        found = usual(query, *args, **options)
        seen.add(found.dtype)
        return found

    def progress(*_: Any) -> None:
        outside.add(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))

    with pretended_gpu(capability=capability):
        on_card = weights.on(GPU)
        monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
        found = logits(on_card, "fast", progress=progress)
        assert {parameter.dtype for parameter in on_card.network.parameters()} == {torch.float32}
    assert seen == {half}
    assert outside == {False}, "callbacks of the engine keep their own precision"
    assert found.dtype == torch.float32
    assert type(found) is torch.Tensor, "results are on the CPU"
    assert error(found, exact) < (1e-3 if half == torch.float32 else MAX_ROUNDING)


def test_both_modes_on_one_card_use_the_same_weights_in_their_own_precision(weights: Weights, gpu: Gpu) -> None:
    exact = logits(weights, "exact")
    with gpu() as device:
        on_card = weights.on(device)
        fast, again = logits(on_card, "fast"), logits(on_card, "exact")
    gpu.assert_same_logits(exact, again)
    assert error(fast, exact) < MAX_ROUNDING


def test_an_error_inside_the_engine_ends_autocast_and_frees_the_card(weights: Weights) -> None:
    with pretended_gpu() as machine:
        on_card = weights.on(GPU)
        _ = on_card.prepared_for("fast")
        held = machine.cards[0].used
        machine.cards[0].fail(errors.illegal_access, after=2500)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            logits(on_card, "fast")
        assert not torch.is_autocast_enabled("cpu")
        assert machine.cards[0].used == held


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_processor_does_not_wait_for_the_card_at_each_slice(weights: Weights, mode: Mode) -> None:
    with pretended_gpu() as machine:
        on_card = weights.on(GPU)
        waits = []
        for last in (4, 4, 7):
            before = machine.waits
            logits(on_card, mode, last)
            waits.append(machine.waits - before)
    assert waits[1] == waits[2], "the number of waits does not depend on the number of slices"
