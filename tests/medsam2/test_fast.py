"""Fast mode on the processor, compared with exact mode on seeded weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from legacy import seeded_state
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network, medsam2_config
from medsam2_atlas.medsam2 import checkpoint as checkpoint_module
from medsam2_atlas.medsam2.fast import FastPropagator
from medsam2_atlas.medsam2.windows import Window
from medsam2_atlas.prompting import BoxPrompt, MarkedOrgan, OrganPrompt, SliceMarks

ORGAN = OrganPrompt(1, 0, 11, (BoxPrompt(4, (10, 10, 20, 20)), BoxPrompt(6, (10, 10, 20, 20))))
MARKED = MarkedOrgan(1, 0, 11, (SliceMarks(3, (10, 10, 20, 20)), SliceMarks(6, None, ((14, 14),))))


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    found = np.random.default_rng(3).normal(60, 30, (12, 40, 40)).astype(np.float32)
    found[:, 10:20, 10:20] += 150
    return found


@pytest.fixture
def in_32_bits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings = medsam2_config().model_copy(update={"fast_precision": "float32"})
    monkeypatch.setattr(checkpoint_module, "medsam2_config", lambda: settings)
    yield


def volume(weights: Weights, hu: np.ndarray, **settings: Any) -> MedSAM2Volume:
    """Returns a volume in fast mode, with some settings."""
    found = MedSAM2Volume(weights, hu, mode="fast")
    assert isinstance(found._propagator, FastPropagator)
    found._propagator._config = medsam2_config().model_copy(update=settings)
    return found


@pytest.fixture
def small_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded weights give masks all over the slice; windows are taken around a small one instead."""
    monkeypatch.setattr(Window, "around", classmethod(lambda cls, logits, side: Window(2, 4, 2, 4)))


@pytest.mark.usefixtures("in_32_bits")
def test_a_margin_that_covers_the_slice_gives_the_result_of_exact_mode(weights: Weights, hu: np.ndarray) -> None:
    exact = MedSAM2Volume(weights, hu).segment([ORGAN])[1].values
    found = volume(weights, hu, fast_margin=1.0).segment([ORGAN])[1].values
    assert torch.equal(found, exact)


@pytest.mark.usefixtures("in_32_bits", "small_masks")
def test_windows_change_the_result_a_little(weights: Weights, hu: np.ndarray) -> None:
    exact = MedSAM2Volume(weights, hu).segment([ORGAN])[1].values
    found = volume(weights, hu, fast_margin=0.25).segment([ORGAN])[1].values
    deviation = float((found - exact).abs().mean())
    assert 0 < deviation < float(exact.std())


@pytest.mark.usefixtures("in_32_bits", "small_masks")
def test_reading_in_full_detail_everywhere_gives_exact_logits_while_memories_are_those_of_prompts(
    weights: Weights, hu: np.ndarray
) -> None:
    """The first tracked slice above the boxes reads prompted slices and one tracked slice only."""
    exact = MedSAM2Volume(weights, hu).segment([ORGAN])[1].values
    found = volume(weights, hu, fast_margin=0.25, fast_block=1).segment([ORGAN])[1].values
    torch.testing.assert_close(found[5], exact[5], atol=1e-3, rtol=0)


@pytest.mark.usefixtures("small_masks")
def test_results_are_the_same_in_every_run(weights: Weights, hu: np.ndarray) -> None:
    first, second = (volume(weights, hu).segment([ORGAN])[1].values for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.usefixtures("small_masks")
def test_marked_organs_are_tracked_in_fast_mode(weights: Weights, hu: np.ndarray) -> None:
    found = volume(weights, hu).segment_marked(MARKED, patience=20)
    assert found.z_min == 0 and len(found.values) == 12
    assert bool(torch.isfinite(found.values).all()) and found.values.dtype == torch.float32


@pytest.mark.usefixtures("small_masks")
def test_the_memory_of_an_empty_slice_is_shared_by_organs_and_their_number_is_limited(
    weights: Weights, hu: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsam2_atlas.medsam2.fast._MAX_BACKGROUNDS", 3)
    found = volume(weights, hu, fast_margin=0.0)
    found.segment([ORGAN])
    assert isinstance(found._propagator, FastPropagator) and len(found._propagator._backgrounds) == 3


@pytest.mark.usefixtures("in_32_bits")
def test_the_memory_of_an_empty_mask_is_that_of_exact_mode(weights: Weights, hu: np.ndarray) -> None:
    found = volume(weights, hu)
    exact = MedSAM2Volume(weights, hu)
    slices = exact._features.stack([5])
    size = int(weights.network.image_size) // 4
    arguments = slices, torch.full((1, 1, size, size), -1024.0), torch.tensor([[-1.0]]), False
    with torch.inference_mode():
        near, whole = found._propagator._remember(*arguments), exact._propagator._remember(*arguments)
    torch.testing.assert_close(near.float(), whole.float(), atol=0.02, rtol=0.02)  # sigmoid(-10) is not quite zero


@pytest.mark.usefixtures("small_masks")
def test_windows_of_all_sizes_leave_no_tables_behind(weights: Weights, hu: np.ndarray) -> None:
    found = volume(weights, hu, fast_margin=0.25)
    found.segment([ORGAN])
    assert len(found._net.memory_encoder.position_encoding.cache) <= 1
