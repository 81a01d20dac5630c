"""The energy of a U-Net's training: added up over the parts of an interrupted run, and read for trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from medsam2_atlas.base import energy
from medsam2_atlas.base.energy import measured
from medsam2_atlas.unet import TrainingCase, TrainingEnergy, UNetTraining, load_unet, save_unet, training_energy, with_training
from medsam2_atlas.unet.energy import RunEnergy
from tiny_unets import block_cases, tiny_unet

CPU = torch.device("cpu")
TINY = tiny_unet(epochs=3, validate_every=1, learning_rate=0.01, early_stop=0)
DECIDED = {"watt_hours": 2.0, "co2_grams": 0.8, "how": "a meter", "complete": True}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """Returns two patients made of blocks."""
    return block_cases(tmp_path_factory.mktemp("cases"), "a", "b")


@pytest.fixture(scope="module")
def finished(cases: list[TrainingCase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    UNetTraining(cases, with_training(TINY, {"epochs": 1}), folder, CPU).run()
    return folder


class Task:
    """Stands for CodeCarbon's tracker: each task has 1 Wh and .4 g CO2e."""

    cpu_model, gpu_model, energy_consumed, emissions = "a processor", "", 0.001, 0.0004

    def start_task(self, name: str) -> None:
        """Starts nothing."""

    def stop_task(self, name: str) -> Task:
        return self


@pytest.fixture
def one_watt_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each task 1 Wh."""
    monkeypatch.setattr(energy, "_tracker", Task)


def stats_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "stats.json").read_text())
    return content


class Stopped(BaseException):
    pass


def stop_after(epochs: int) -> Any:
    def progress(stage: str, share: float, organ: int | None = None) -> None:
        if stage == "training" and share * TINY.training.epochs > epochs - 0.5:
            raise Stopped

    return progress


@contextmanager
def killed() -> Iterator[None]:
    """Ends a run as a kill does: the process' lock is gone."""
    try:
        yield
    finally:
        if energy._lock.locked():
            energy._lock.release()


def test_a_training_keeps_its_energy(finished: Path) -> None:
    found = TrainingEnergy.model_validate(stats_of(finished)["energy"])
    assert found.complete
    assert found.watt_hours is not None
    assert found.watt_hours > 0
    assert found.co2_grams == pytest.approx(0.381 * found.watt_hours, rel=0.01)
    assert "CodeCarbon" in found.how
    assert not energy._lock.locked()
    assert training_energy(finished / "best.pt") == found


@pytest.mark.usefixtures("one_watt_hour")
def test_each_checkpoint_keeps_the_energy_until_then(cases: list[TrainingCase], tmp_path: Path) -> None:
    kept: list[tuple[float, bool]] = []

    def look(stage: str, share: float, organ: int | None = None) -> None:
        if stage == "training":
            in_file = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)["energy"]
            assert in_file == stats_of(tmp_path / "run")["energy"]
            kept.append((in_file["watt_hours"], in_file["complete"]))

    stats = UNetTraining(cases, TINY, tmp_path / "run", CPU, progress=look).run()
    assert kept == [(2.0, False), (3.0, False), (4.0, False)]  # reading the cases is a task, too
    assert (stats["energy"]["watt_hours"], stats["energy"]["complete"]) == (5.0, True)


@pytest.mark.usefixtures("one_watt_hour")
def test_the_energy_of_a_run_that_an_error_ended_is_complete_after_it_resumed(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        UNetTraining(cases, TINY, tmp_path / "run", CPU, progress=stop_after(2)).run()
    first = stats_of(tmp_path / "run")
    assert (first["state"], first["energy"]["watt_hours"], first["energy"]["complete"]) == ("stopped", 4.0, True)
    stats = UNetTraining(cases, TINY, tmp_path / "run", CPU).run()
    # Reading the cases, epoch 3 and the end.
    assert (stats["resumed_from"], stats["energy"]["watt_hours"], stats["energy"]["complete"]) == (2, 4.0 + 3.0, True)
    assert stats["energy"]["co2_grams"] == 2.8


@pytest.mark.usefixtures("one_watt_hour")
def test_the_energy_of_a_run_that_was_killed_is_incomplete_forever(cases: list[TrainingCase], tmp_path: Path) -> None:
    with killed():
        run = UNetTraining(cases, TINY, tmp_path / "run", CPU, progress=stop_after(1))
        run.trainer.remove_event_handler(run._fail, Events.EXCEPTION_RAISED)  # nothing is written; others ignore the error
        run.run()
    assert stats_of(tmp_path / "run")["energy"] == {
        "watt_hours": 2.0,
        "co2_grams": 0.8,
        "how": "CodeCarbon, this process on a processor",
        "complete": False,
    }
    with pytest.raises(Stopped):
        UNetTraining(cases, TINY, tmp_path / "run", CPU, progress=stop_after(2)).run()
    assert stats_of(tmp_path / "run")["energy"]["complete"] is False
    stats = UNetTraining(cases, TINY, tmp_path / "run", CPU).run()
    assert stats["state"] == "finished"
    assert stats["energy"]["complete"] is False
    assert stats["energy"]["watt_hours"] == 2.0 + 3.0 + 3.0


@pytest.mark.usefixtures("one_watt_hour")
def test_a_kill_before_the_first_checkpoint_after_resuming_is_noticed(cases: list[TrainingCase], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        UNetTraining(cases, TINY, tmp_path / "run", CPU, progress=stop_after(1)).run()
    with killed():
        run = UNetTraining(cases, TINY, tmp_path / "run", CPU)
        run._begin()
    assert stats_of(tmp_path / "run")["state"] == "running"
    stats = UNetTraining(cases, TINY, tmp_path / "run", CPU).run()
    assert stats["energy"]["complete"] is False


def test_a_training_beside_other_measured_work_is_not_complete(cases: list[TrainingCase], tmp_path: Path) -> None:
    with measured():
        stats = UNetTraining(cases, with_training(TINY, {"epochs": 1}), tmp_path / "run", CPU).run()
    assert stats["energy"] == {
        "watt_hours": None,
        "co2_grams": None,
        "how": "not measured: other work ran beside it",
        "complete": False,
    }
    assert stats["state"] == "finished"


@pytest.mark.usefixtures("one_watt_hour")
def test_a_checkpoint_of_an_earlier_release_has_no_energy(tmp_path: Path) -> None:
    run = RunEnergy()
    run.resume(tmp_path, None)
    with run.measuring():
        pass
    found = run.to_json()
    assert (found["watt_hours"], found["complete"]) == (1.0, False)
    assert found["how"] == "not measured: an earlier part of the training; then CodeCarbon, this process on a processor"


@pytest.mark.usefixtures("one_watt_hour")
@pytest.mark.parametrize("content", [None, "{", "[]", '{"energy": {"watt_hours": -5}}', '{"energy": {"watt_hours": 1e999}}'])
def test_the_checkpoint_gives_the_energy_if_the_statistics_do_not(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "stats.json").write_text(content)
    run = RunEnergy()
    run.resume(tmp_path, DECIDED)
    found = run.to_json()
    assert (found["watt_hours"], found["complete"]) == (2.0, False)


@pytest.mark.usefixtures("one_watt_hour")
def test_statistics_of_the_run_before_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_text(json.dumps({"state": "finished", "energy": DECIDED | {"watt_hours": 900.0}}))
    run = RunEnergy()
    run.resume(tmp_path, DECIDED)
    assert run.to_json()["watt_hours"] == 2.0


def test_other_weights_in_the_folder_of_a_run_have_no_known_energy(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    best = load_unet(run / "best.pt")
    assert training_energy(run / "best.pt") is not None
    save_unet(run / "best.pt", best.network.state_dict(), best.config, validation={6: 0.5}, cases={6: 1}, mark="other")
    assert training_energy(run / "best.pt") is None


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", "[" * 100_000, '{"energy": {"watt_hours": 1, "how": 3}}'])
def test_weights_without_valid_statistics_have_no_known_energy(content: str | None, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "best.pt", tmp_path / "best.pt")
    if content is not None:
        (tmp_path / "stats.json").write_text(content)
    assert training_energy(tmp_path / "best.pt") is None
    assert training_energy(tmp_path / "missing.pt") is None


def test_energy_is_not_complete_if_the_training_started_from_other_weights(
    cases: list[TrainingCase], finished: Path, tmp_path: Path
) -> None:
    start = load_unet(finished / "best.pt")
    stats = UNetTraining(cases, with_training(TINY, {"epochs": 1}), tmp_path / "run", CPU, start=start).run()
    found = training_energy(tmp_path / "run" / "best.pt")
    assert stats["energy"]["complete"]
    assert found is not None
    assert found.watt_hours == stats["energy"]["watt_hours"]
    assert not found.complete
