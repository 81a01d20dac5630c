"""A server with a full or broken GPU answers requests and segments on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blocks import PATIENT, labelled
from main import MedSAM2AtlasApp
from medsam2_atlas.base import memory
from medsam2_atlas.base.card_problems import Trial
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.medsam2 import Weights
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.open_images import _Key
from medsam2_atlas.storage import StudyStore, WorkFolder
from medsam2_atlas.studies import PredictionStore
from medsam2_atlas.studies import models as models_module
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import UNet

GPU = torch.device("cuda:0")


class FullGPU:
    """A fake GPU without free memory: it refuses every network, and records the attempts in `asked`."""

    def __init__(self) -> None:
        self.asked: list[torch.device] = []
        self.message = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB"

    def on(self, network: Any, device: torch.device) -> Any:
        if device.type == "cuda":
            self.asked.append(device)
            raise torch.OutOfMemoryError(self.message)
        return network


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FullGPU:
    full = FullGPU()
    monkeypatch.setattr(models_module, "pick_device", lambda _: GPU)
    for kind in (Weights, UNet):
        monkeypatch.setattr(kind, "on", lambda network, device: full.on(network, device))
    return full


@pytest.fixture
def app(gpu: FullGPU, tmp_path: Path) -> Iterator[MedSAM2AtlasApp]:
    labelled(tmp_path / "made", "one", PATIENT)
    (tmp_path / "studies").mkdir()
    (tmp_path / "made" / "images" / "one.nii.gz").replace(tmp_path / "studies" / "one.nii.gz")
    conf = {"device": "cuda", "learning": "false"}
    app = MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(tmp_path / "studies"), conf)
    yield app
    app.stop()


def test_the_models_are_listed_while_the_gpu_is_full(app: MedSAM2AtlasApp, gpu: FullGPU) -> None:
    about = app.info()
    assert {"unet_3d", "medsam2"} <= about["models"].keys()
    assert not {"unet_3d", "medsam2"} & about["missing"].keys()
    assert app._tasks["unet_3d"].is_valid()
    assert app._tasks["unet_3d"].get_path()
    assert app._all["medsam2"].is_valid()
    app._all["medsam2"].config()
    assert not gpu.asked


def test_weights_can_be_uploaded_while_the_gpu_is_full(app: MedSAM2AtlasApp, gpu: FullGPU) -> None:
    assert app.put_weights("unet_3d", resource("weights/unet_3d_demo.pt"))["model"] == "unet_3d"
    assert not gpu.asked


def test_a_case_falls_back_to_the_cpu_and_its_provenance_records_that(
    app: MedSAM2AtlasApp, gpu: FullGPU, tmp_path: Path
) -> None:
    result = app.infer({"model": "unet_3d", "image": "one"})
    assert len(gpu.asked) == 3
    assert result["params"]["report"]["memory"].endswith("done on the processor")
    kept = PredictionStore(WorkFolder.of(tmp_path / "studies"), StudyStore(tmp_path / "studies")).latest("unet_3d", "one")
    assert kept is not None
    assert (kept.provenance["device"], kept.provenance["precision"]) == ("cpu", "float32")
    assert kept.report.device == "cpu"
    gpu.asked.clear()
    assert app.infer({"model": "unet_3d", "image": "one"})["params"]["report"]["from_cache"]
    assert not gpu.asked


def test_a_click_falls_back_to_the_cpu_if_the_gpu_is_full(app: MedSAM2AtlasApp, gpu: FullGPU) -> None:
    clicked = {"model": "medsam2", "image": "one", "label": "liver", "foreground": [[10, 12, 22]], "reach": "12"}
    report = app.infer(clicked)["params"]["report"]
    assert len(gpu.asked) == 3
    assert report["memory"].endswith("done on the processor")
    assert (report["device"], report["precision"]) == ("cpu", "float32")


def test_a_broken_gpu_is_not_used_again(app: MedSAM2AtlasApp, gpu: FullGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: Any, device: torch.device) -> Any:
        if device.type == "cuda":
            gpu.asked.append(device)
            raise RuntimeError("CUDA error: unspecified launch failure")
        return network

    monkeypatch.setattr(UNet, "on", fail)
    monkeypatch.setattr(memory, "try_kernel", lambda _: Trial("the card is lost"))
    result = app.infer({"model": "unet_3d", "image": "one", "organs": "liver"})
    assert "the GPU failed" in result["params"]["report"]["memory"]
    app.infer({"model": "unet_3d", "image": "one", "organs": "spleen"})
    assert len(gpu.asked) == 1
    assert "unspecified launch failure" in app.info()["missing"]["GPU"]


def test_results_from_before_the_gpu_was_full_stay_valid(
    app: MedSAM2AtlasApp, gpu: FullGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNet, "on", lambda network, _: network)  # a GPU with free memory, whose networks stay on the CPU
    app._predictions.get("unet_3d", "one")
    monkeypatch.setattr(UNet, "on", lambda network, device: gpu.on(network, device))
    app._models.ladder._fitted["unet_3d"] = ("cpu", time.monotonic())
    result = app.infer({"model": "unet_3d", "image": "one"})
    assert result["params"]["report"]["from_cache"]
    assert not gpu.asked


def test_a_model_without_a_network_does_not_use_the_gpu(app: MedSAM2AtlasApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> torch.device:
        raise InputError("cuda:0", "cannot be used")

    monkeypatch.setattr(Models, "device", property(broken))
    monkeypatch.setattr(Models, "ladder", property(broken))
    monkeypatch.setattr(Models, "atlas", lambda _: SimpleNamespace(version="1"))
    task = app._tasks["atlas"]
    assert not task.uses_network
    provenances = app._predictions._runner._provenances(app._models.segmenter("atlas"), Options(organs=(6,)))
    assert len(list(provenances)) == 1


def test_cached_gpu_data_is_released_if_memory_is_short(app: MedSAM2AtlasApp, gpu: FullGPU) -> None:
    key = _Key("image", "weights", str(GPU), "small", "exact")
    app._models.images._open[key] = SimpleNamespace(bytes=1)  # type: ignore[assignment]
    app._models._copies["weights", GPU] = (object(), object())
    app.infer({"model": "unet_3d", "image": "one"})
    assert not app._models.images._open
    assert not app._models._copies
