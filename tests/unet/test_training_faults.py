"""Faults of a GPU or of reading processes do not spoil a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet, with_training
from medsam2_atlas.unet import training as unet_training
from medsam2_atlas.unet.inference import UNetInferer
from pretended_gpu import pretended_gpu
from tiny_unets import block_cases, tiny_unet

CPU = torch.device("cpu")
TINY = tiny_unet(epochs=4, validate_every=2, learning_rate=0.01, early_stop=0)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """Returns two patients made of blocks."""
    return block_cases(tmp_path_factory.mktemp("cases"), "a", "b")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "out of GPU memory.*patches_per_case"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "lost the GPU.*illegal memory access"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "lost a process.*--shm-size"),
        (RuntimeError("something else"), "something else"),
    ],
)
def test_a_fault_is_reported_with_its_remedy_and_the_run_resumes(
    fault: RuntimeError, message: str, cases: list[TrainingCase], tmp_path: Path
) -> None:
    training = UNetTraining(cases, TINY, tmp_path / "run", CPU)

    def fail(*_: Any) -> None:
        if training.trainer.state.epoch == 3:
            raise fault

    training.network.register_forward_pre_hook(fail)
    with pytest.raises(InputError if "some" not in message else RuntimeError, match=message):
        training.run()
    stats = json.loads((tmp_path / "run" / "stats.json").read_text())
    assert stats["state"] == "stopped"
    assert str(fault)[:10] in stats["problem"] or "out of GPU memory" in stats["problem"]
    assert load_unet(tmp_path / "run" / "best.pt")
    again = UNetTraining(cases, TINY, tmp_path / "run", CPU).run()
    assert again["resumed_from"] == 2
    assert again["state"] == "finished"
    assert "problem" not in again


def test_a_gpu_too_full_for_the_network_gives_an_error_with_a_remedy(
    cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(InputError, match="out of GPU memory on cpu"):
        UNetTraining(cases, TINY, tmp_path / "run", CPU)


def test_validation_that_does_not_fit_does_not_end_a_training(
    cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = UNetTraining(cases, TINY, tmp_path / "usual", CPU).run()
    used: list[bool] = []
    real = UNetInferer.__call__

    def narrow(self: UNetInferer, *args: Any, **options: Any) -> torch.Tensor:
        used.append(self._spares)
        if not self._spares:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *args, **options)

    monkeypatch.setattr(UNetInferer, "__call__", narrow)
    found = UNetTraining(cases, TINY, tmp_path / "narrow", CPU).run()
    assert used == [False, True, True]
    assert [entry["epoch"] for entry in found["validation"]] == [2, 4]
    assert found["validation"][-1]["mean_dice"] == pytest.approx(expected["validation"][-1]["mean_dice"], abs=1e-3)


SHORT = with_training(
    TINY.model_copy(update={"spacing": (16.0, 16.0, 16.0), "filters": (2, 4, 4), "heads": 0}),
    {"epochs": 2, "validate_every": 1, "patches_per_case": 1},
)


class Killed(BaseException):
    pass


def kill(stage: str, share: float) -> None:
    """Stops a training after half of its epochs."""
    if stage == "training" and share >= 0.5:
        raise Killed


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda:1")])
def test_a_training_resumes_on_another_device(
    first: str, then: str, cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet_training, "worker_count", lambda _: 0)
    run = tmp_path / "run"
    with pretended_gpu(2):
        with pytest.raises(Killed):
            UNetTraining(cases, SHORT, run, torch.device(first), progress=kill).run()
        training = UNetTraining(cases, SHORT, run, torch.device(then))
        stats = training.run()
        assert {p.device for p in training.network.parameters()} == {torch.device(then)}
    assert stats["resumed_from"] == 1
    assert len(stats["loss"]) == 2
    assert {p.device for p in load_unet(run / "best.pt").network.parameters()} == {CPU}


def test_initial_weights_take_no_gpu_memory(cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet_training, "worker_count", lambda _: 0)
    UNetTraining(cases, SHORT, tmp_path / "first", CPU).run()
    start = load_unet(tmp_path / "first" / "best.pt")
    size = sum(p.nbytes for p in start.network.parameters())
    with pretended_gpu() as machine:
        training = UNetTraining(cases, SHORT, tmp_path / "run", torch.device("cuda"), start=start)
        assert machine.cards[0].peak < 1.5 * size
        assert training.stats()["started_from"]["sha256"] == start.sha256


def test_a_full_gpu_does_not_end_validation(cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet_training, "worker_count", lambda _: 0)
    with pretended_gpu() as machine:
        training = UNetTraining(cases, SHORT, tmp_path / "run", torch.device("cuda"))
        assert training.validation is not None
        training.validation.evaluator.add_event_handler(Events.STARTED, lambda _: machine.cards[0].fail(after=20))
        stats = training.run()
    assert [entry["epoch"] for entry in stats["validation"]] == [1, 2]
