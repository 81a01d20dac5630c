"""Work processes use the server's device; processes without a network use no GPU."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.tasks.train.basic_train import BasicTrainTask
from monailabel.utils.async_tasks import task, utils

from main import MedSAM2AtlasApp
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import build_unet, save_unet, unet_config
from server import work
from tasks.claims import SERVER_VARIABLE

HIDDEN = {"device": "cpu", "gpus": "-1"}
Started = tuple[MedSAM2AtlasApp, list[dict[str, Any]]]


def made(folder: Path, device: str = "cpu") -> MedSAM2AtlasApp:
    """Returns an app without studies and without an atlas."""
    (folder / "studies").mkdir(exist_ok=True)
    conf = {"device": device, "learning": "false", "atlas": str(folder / "none")}
    return MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(folder / "studies"), conf)


def broken(*_: Any) -> Any:
    raise RuntimeError("CUDA error: unknown error")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> MedSAM2AtlasApp:
    return made(tmp_path_factory.mktemp("app"))


@pytest.fixture
def second(app: MedSAM2AtlasApp, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Returns an app whose device is the second GPU, and the list of requests for the processes that it starts."""
    begun: list[dict[str, Any]] = []
    app._models.__dict__["device"] = torch.device("cuda:1")
    for module in (work, task):
        monkeypatch.setattr(module, "app_instance", lambda: app)
    monkeypatch.setattr(task, "run_background_task", lambda request, _: begun.append(request) or {"id": ""})
    monkeypatch.setattr(work.settings, "MONAI_LABEL_STUDIES", app.studies)
    return app, begun


def test_training_and_batches_run_on_the_servers_gpu(second: Started) -> None:
    for options in ({}, {"device": "cuda"}):
        work.run_training("unet_3d", options)
        work.run_batch("unet_3d", BatchInferImageType.IMAGES_ALL, options)
    assert [request["device"] for request in second[1]] == ["cuda:1"] * 4
    assert not any("gpus" in request for request in second[1])


def test_a_training_runs_on_the_cpu_if_requested(second: Started) -> None:
    work.run_training("unet_2d", {"device": "cpu"})
    assert second[1][0].items() >= HIDDEN.items()


def test_a_training_on_a_missing_gpu_is_refused(second: Started) -> None:
    with pytest.raises(InputError, match="cuda:7"):
        work.run_training("unet_3d", {"device": "cuda:7"})
    assert not second[1]


def test_gpus_are_hidden_from_processes_that_need_none(second: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    work.run_scoring("organs")
    work.run_training("medsam2_atlas")
    work.run_batch("atlas", BatchInferImageType.IMAGES_ALL)
    assert [request["gpus"] for request in second[1]] == ["-1"] * 3
    seen: list[str] = []

    def popen(_: list[str], env: dict[str, str], **__: Any) -> SimpleNamespace:
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(poll=lambda: 0, returncode=0, stdout=io.StringIO())

    monkeypatch.setattr(utils.subprocess, "Popen", popen)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setitem(utils.background_processes, "scoring", {})
    utils._task_func({"id": "", "status": "", "request": second[1][0]}, "scoring")
    assert seen == ["-1"]


def test_a_process_trains_on_the_requested_device(second: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr(BasicTrainTask, "__call__", lambda _, request, __: devices.append(request["device"]))
    monkeypatch.setattr("tasks.unet_trainer.pick_device", torch.device)
    trainer = second[0]._trainers["unet_3d"]
    for options in ({}, {"device": "cuda"}, {"device": "cuda:0"}):
        trainer(options, None)
    assert devices == ["cuda:1", "cuda:1", "cuda:0"]
    monkeypatch.setattr(Models, "device", property(broken))  # as if the GPU were hidden from this process
    trainer({"device": "cpu"}, None)
    assert devices[-1] == "cpu"


def test_a_work_process_without_a_network_does_not_use_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "1_1_1")
    monkeypatch.setattr(Models, "device", property(broken))
    app = made(tmp_path, "cuda:1")
    assert app.scoring({"method": "organs"})["mean"]["studies"] == 0


def test_a_server_on_the_cpu_starts_with_a_broken_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("get_device_name", "get_device_properties", "_lazy_init", "current_device"):
        monkeypatch.setattr(torch.cuda, name, broken)
    assert "unet_3d" in made(tmp_path).info()["models"]


def test_uploading_weights_does_not_use_the_gpu(second: Started, tmp_path: Path) -> None:
    config = unet_config("unet_3d").model_copy(update={"filters": (4, 8, 16), "heads": 0})
    save_unet(tmp_path / "w.pt", build_unet(config).state_dict(), config, validation={}, cases={}, mark="tiny")
    assert second[0].put_weights("unet_3d", tmp_path / "w.pt")["mark"] == "tiny"  # would fail on CUDA, which this machine lacks
