"""Slices are preprocessed as in MedSAM2's published script."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.medsam2 import MedSAM2Config, preprocessing
from medsam2_atlas.medsam2.preprocessing import to_network, to_uint8


def test_the_range_of_the_clipped_volume_becomes_0_to_255_truncated() -> None:
    hu = np.array([[[-1000.0, -100.0, 0.0, 200.0, 500.0, 3000.0]]])
    assert to_uint8(hu).ravel().tolist() == [0, 0, 42, 127, 255, 255]
    assert hu.ravel().tolist() == [-1000, -100, 0, 200, 500, 3000], "the volume itself is unchanged"
    assert to_uint8(np.array([[[0.0, 100.0]]])).ravel().tolist() == [0, 255]
    assert to_uint8(np.full((2, 2, 2), -1000.0)).max() == 0


def test_slices_are_resized_by_pils_default_filter_and_normalised() -> None:
    plane = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    found = to_network([plane], 32)
    assert found.shape == (1, 3, 32, 32)
    assert found.dtype == torch.float32
    red = (np.asarray(Image.fromarray(plane).resize((32, 32))) / 255 - 0.485) / 0.229
    assert found[0, 0].numpy() == pytest.approx(red, abs=1e-5)


def test_a_setting_determines_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    hu = np.array([[[-1000.0, -50.0, 50.0, 150.0, 3000.0]]])
    monkeypatch.setattr(preprocessing, "medsam2_config", lambda: MedSAM2Config(window=(-50.0, 150.0)))
    assert to_uint8(hu).ravel().tolist() == [0, 0, 127, 255, 255]
    assert to_uint8(hu, (50.0, 150.0)).ravel().tolist() == [0, 0, 0, 255, 255]
    with pytest.raises(ValueError, match="lower bound"):
        MedSAM2Config(window=(150.0, -50.0))


@pytest.mark.parametrize(("memory", "batches"), [("", (32, 8)), ("small", (4, 2)), ("smallest", (1, 1))])
def test_batches_are_smaller_if_a_gpus_memory_is_short(memory: Memory, batches: tuple[int, int]) -> None:
    assert MedSAM2Config.model_validate({}).batches(memory) == batches


def test_the_cpu_runs_organs_one_after_the_other() -> None:
    assert MedSAM2Config.model_validate({}).batches("cpu", "cpu") == (1, 1)
