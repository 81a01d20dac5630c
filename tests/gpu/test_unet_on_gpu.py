"""The U-Net gives the same label maps on a GPU as on the CPU, and a training resumes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from medsam2_atlas.imaging.volume import Volume, read_volume
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.unet import TrainingCase, UNet, UNetConfig, UNetTraining, build_unet, load_unet, predict, with_training
from pretended_gpu import pretended_gpu
from tiny_unets import block_cases, tiny_unet

NETWORKS = {"3D": 3, "2D": 2}


def tiny(dimensions: str) -> UNetConfig:
    return tiny_unet(NETWORKS[dimensions], epochs=3, validate_every=1, learning_rate=0.01, early_stop=2)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    return block_cases(tmp_path_factory.mktemp("cases"), "a", "b")


@pytest.fixture(scope="module")
def patient(cases: list[TrainingCase]) -> Volume:
    return read_volume(cases[0].image)


@pytest.fixture(autouse=True)
def no_workers(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads patches in this process. The pretended GPU does not reach other processes, and starting eight takes seconds."""
    import medsam2_atlas.unet.training as training

    if not gpu.real:
        load = training.train_loader
        monkeypatch.setattr(training, "train_loader", lambda cases, config, folder, *_, **__: load(cases, config, folder))


@pytest.mark.parametrize("dimensions", NETWORKS)
@pytest.mark.parametrize("augment", [False, True])
def test_gpu_label_maps_match_those_of_the_cpu(dimensions: str, augment: bool, patient: Volume, gpu: Gpu) -> None:
    torch.manual_seed(0)
    state = build_unet(tiny(dimensions)).state_dict()

    def labels(device: torch.device) -> np.ndarray:
        network = build_unet(tiny(dimensions)).to(device).eval()
        network.load_state_dict(state)
        return predict(patient, UNet(network, tiny(dimensions), Path("seeded"), ""), augment=augment).labels

    on_cpu, on_gpu = gpu.both(labels)
    # Mixed precision changes some voxels, because the logits of an untrained network are nearly equal.
    assert (on_cpu != on_gpu).mean() < 0.02


@pytest.mark.slow
def test_the_demo_unet_finds_the_same_organs_as_on_the_cpu(target: Volume, gpu: Gpu) -> None:
    on_cpu, on_gpu = gpu.both(lambda device: predict(target, load_unet(find_unet("unet_3d"), device)).labels)
    gpu.assert_same_labels(on_cpu, on_gpu, rounded=True)


class Killed(BaseException):
    pass


def kill(stage: str, share: float) -> None:
    if stage == "training":
        raise Killed


@pytest.mark.parametrize("dimensions", NETWORKS)
def test_a_training_on_a_gpu_resumes_after_a_kill(dimensions: str, cases: list[TrainingCase], tmp_path: Path, gpu: Gpu) -> None:
    config = tiny(dimensions)
    with gpu() as device:
        with pytest.raises(Killed):
            UNetTraining(cases, config, tmp_path / "run", device, progress=kill).run()
        stats = UNetTraining(cases, config, tmp_path / "run", device).run()
        assert stats["resumed_from"] == 1
        assert all(np.isfinite(stats["loss"]))
        assert stats["validation"]
    assert str(load_unet(tmp_path / "run" / "best.pt").device) == "cpu"


def test_work_for_the_cpu_runs_nothing_on_a_gpu(cases: list[TrainingCase], patient: Volume, tmp_path: Path) -> None:
    with pretended_gpu() as machine:
        UNetTraining(cases, with_training(tiny("3D"), {"epochs": 1}), tmp_path / "run", torch.device("cpu")).run()
        predict(patient, load_unet(tmp_path / "run" / "best.pt"))
        assert not machine.cards[0].operations


def test_a_training_starts_from_weights_on_another_device(cases: list[TrainingCase], tmp_path: Path) -> None:
    config = tiny("3D")
    UNetTraining(cases, config, tmp_path / "first", torch.device("cpu")).run()
    with pretended_gpu(2) as machine:
        start = load_unet(tmp_path / "first" / "best.pt", torch.device("cuda:0"))
        before = machine.cards[0].operations.copy()
        stats = UNetTraining(cases, config, tmp_path / "second", torch.device("cuda:1"), start=start).run()
        assert stats["started_from"]["sha256"] == start.sha256
        assert machine.cards[1].count > 1000
        assert set(machine.cards[0].operations - before) <= {"to", "detach"}  # only the weights are copied from it
