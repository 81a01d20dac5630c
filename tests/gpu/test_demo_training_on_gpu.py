"""The training of the demo weights runs on a GPU, with boxes and then clicks, and resumes after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from medsam2_atlas.demo.phantoms.dataset import draw_case
from medsam2_atlas.demo.training import DemoTraining, train_demo

QUICK = DemoTraining(seed=3, patients=1, steps=1, click_steps=1, workers=1, save_every=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    case = draw_case(3, 0, 6.0)
    image = np.clip((case.image + 100) / 600 * 255, 0, 255).astype(np.uint8)
    np.savez(folder / "3-0.npz", image=image, label=case.label, slices=6.0)
    return folder


@pytest.mark.slow
def test_boxes_and_clicks_are_trained_on_a_gpu(cache: Path, tmp_path: Path, gpu: Gpu) -> None:
    def stop(stage: str, share: float) -> None:
        if stage == "training":
            raise KeyboardInterrupt

    with gpu() as device:
        with pytest.raises(KeyboardInterrupt):
            train_demo(tmp_path / "demo.pt", cache, QUICK, device, stop)
        train_demo(tmp_path / "demo.pt", cache, QUICK, device)
    assert all(torch.isfinite(t).all() for t in torch.load(tmp_path / "demo.pt", weights_only=True)["model"].values())
    assert torch.load(tmp_path / "demo.state", weights_only=True, map_location="cpu")["step"] == 2
