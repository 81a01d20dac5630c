"""On a GPU, organs and directions with different amounts of memory share a batch, and the CPU rarely waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from equality import boxes, ct
from legacy import seeded_state
from medsam2_atlas.base.choices import Mode
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network
from medsam2_atlas.medsam2.batched_propagation import BatchedPropagator
from medsam2_atlas.medsam2.tracks import Track
from medsam2_atlas.medsam2.uploads import uploaded
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt
from pretended_gpu import PretendedTensor, errors, pretended_gpu

GPU = torch.device("cuda:0")
PROMPTS = [
    boxes(0, 6, 1, 3, 5),
    OrganPrompt(2, 2, 4, (BoxPrompt(3, (10, 50, 40, 80)),)),
    OrganPrompt(3, 3, 6, (BoxPrompt(4, (50, 20, 80, 70)), BoxPrompt(5, (50, 22, 80, 70)))),
]


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


def logits(engine: MedSAM2Volume) -> torch.Tensor:
    found = engine.segment(PROMPTS, loop="published")  # one organ is corrected on the way
    return torch.cat([found[prompt.label].values for prompt in PROMPTS])


@pytest.fixture(scope="module")
def alone(weights: Weights) -> torch.Tensor:
    """Returns the logits of the organs, computed one after the other on the CPU."""
    return logits(MedSAM2Volume(weights, ct(7)))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (found - expected).abs()
    return float(difference.mean()) < 1e-3 and float(difference.max()) < 0.1


def test_organs_in_one_batch_have_the_same_logits_as_alone(
    weights: Weights, alone: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended_gpu():
        engine = MedSAM2Volume(weights.on(GPU), ct(7))
        sizes: list[int] = []
        run = engine._propagator._step

        def counted(tracks: Sequence[Track], step: int) -> None:
            sizes.append(len(tracks))
            run(tracks, step)

        monkeypatch.setattr(engine._propagator, "_step", counted)
        found = logits(engine)
    assert isinstance(engine._propagator, BatchedPropagator)
    assert close(found, alone)
    assert max(sizes) > 2, "tracks of different organs share a batch"
    assert len(sizes) <= 3, "the tracks of a step are one batch"


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_cpu_waits_for_the_gpu_only_for_results(mode: Mode, weights: Weights) -> None:
    with pretended_gpu() as machine:
        engine = MedSAM2Volume(weights.on(GPU), ct(7), mode=mode)
        engine.segment([boxes(1, 2, 2)])  # makes the table of pointers' positions
        before = machine.waits
        engine.segment([boxes(0, 4, 1, 2, 3), OrganPrompt(2, 2, 6, (BoxPrompt(3, (10, 50, 40, 80)),))])
        assert machine.waits - before == 2  # the logits of two organs


@pytest.mark.parametrize("after", [3500, 5000])
def test_a_step_that_lacks_memory_is_repeated_in_parts_with_the_same_result(
    after: int, weights: Weights, alone: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with pretended_gpu() as machine:
        on_card = weights.on(GPU)
        engine = MedSAM2Volume(on_card, ct(7))
        engine._features.encode(range(7))
        machine.cards[0].fail(errors.cublas_allocation_failed, after=after - machine.cards[0].count)
        found = logits(engine)
        del engine
        used = machine.cards[0].used
        MedSAM2Volume(on_card, ct(7))  # tables of another volume
        assert machine.cards[0].used <= used
    assert caplog.text.count("out of GPU memory with") == 1
    assert close(found, alone)


def test_encoding_that_lacks_memory_is_repeated_with_fewer_slices(
    weights: Weights, alone: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with pretended_gpu() as machine:
        engine = MedSAM2Volume(weights.on(GPU), ct(7))
        machine.cards[0].fail(after=400)
        found = logits(engine)
        assert len(engine._features) == 7
        assert engine._features.bytes == sum(
            tensor.numel() * tensor.element_size()
            for store in (engine._features._features, engine._features._first)
            for tensors in store.values()
            for tensor in tensors
        )
    assert "out of GPU memory with 7 at a time, so the next part has 4" in caplog.text
    assert close(found, alone)


def test_a_copy_to_the_gpu_does_not_wait_for_it() -> None:
    with pretended_gpu() as machine:
        before = machine.waits
        found = uploaded(torch.arange(3), GPU)
        assert machine.waits == before
        assert isinstance(found, PretendedTensor)
        assert np.array_equal(found.cpu(), [0, 1, 2])
    assert uploaded(found.values, torch.device("cpu")) is found.values
