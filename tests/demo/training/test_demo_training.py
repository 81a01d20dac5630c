"""The training of the demo weights runs, is reproducible from a seed, and resumes after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2_atlas.demo.phantoms.dataset import draw_case
from medsam2_atlas.demo.training import DEMO_MARK, DemoTraining, train_demo
from medsam2_atlas.demo.training.clips import PhantomPool, Stage
from medsam2_atlas.demo.training.demo import stage_at
from medsam2_atlas.medsam2 import load_weights

QUICK = DemoTraining(seed=3, patients=1, steps=2, click_steps=1, workers=1, save_every=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes one small phantom in place of the training's phantoms."""
    folder = tmp_path_factory.mktemp("pool")
    case = draw_case(3, 0, 6.0)
    np.savez(
        folder / "3-0.npz", image=np.clip((case.image + 100) / 600 * 255, 0, 255).astype(np.uint8), label=case.label, slices=6.0
    )
    return folder


def test_the_images_masks_and_boxes_of_a_clip_match(cache: Path) -> None:
    pool = PhantomPool(cache, 3, 1)
    batch = pool.batch(np.random.default_rng(0), Stage(3, 2, 2, (1,)), 64, 32)
    assert batch.images.shape == (3, 2, 3, 64, 64)
    objects = len(batch.clip_of)
    assert batch.masks.shape == (3, objects, 32, 32)
    assert (batch.masks[0] > 0.5).flatten(1).any(1).all()
    for n in range(objects):
        rows, columns = np.nonzero(batch.masks[0, n].numpy() > 0.5)
        middle = batch.boxes[0, n].mean(0).numpy()
        assert middle == pytest.approx([2 * columns.mean() + 1, 2 * rows.mean() + 1], abs=16)


def test_the_curriculum_ends_with_clips_past_the_ends_of_organs() -> None:
    stages = [stage_at(share) for share in (0.0, 0.35, 0.5, 0.7, 0.95)]
    assert [s.slices for s in stages] == [1, 2, 2, 3, 5]
    assert stages[1].strides == (0,)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limits PyTorch to one thread; several threads sum gradients in varying order, which rounds differently each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_training_writes_marked_weights_and_resumes_after_a_stop(cache: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    train_demo(tmp_path / "whole.pt", cache, QUICK, device)

    def stop(stage: str, share: float, organ: int | None = None) -> None:
        if stage == "training" and share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_demo(tmp_path / "stopped.pt", cache, QUICK, device, stop)
    assert int(torch.load(tmp_path / "stopped.state", weights_only=True)["step"]) == 1
    train_demo(tmp_path / "stopped.pt", cache, QUICK, device)
    whole, stopped = (load_weights(tmp_path / name) for name in ("whole.pt", "stopped.pt"))
    assert whole.mark == DEMO_MARK
    assert stopped.config.model.image_size == whole.config.model.image_size
    tensors = whole.network.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stopped.network.state_dict().items())
