"""Work accepts only parameters of a typed allow-list; no other value reaches a command, a path or the environment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from monailabel.config import settings
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.async_tasks import task

from blocks import PATIENT, labelled
from main import MedSAM2AtlasApp
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from server import work
from server.parameters import (
    batch_parameters,
    infer_parameters,
    sample_parameters,
    scoring_parameters,
    training_parameters,
)
from tasks.requests import options_of


@pytest.fixture(scope="module")
def server_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MedSAM2AtlasApp]:
    """An app with two studies, without an atlas."""
    folder = tmp_path_factory.mktemp("parameters")
    for name in ("one", "two"):
        labelled(folder / "made", name, PATIENT)
    (folder / "studies").mkdir()
    for image in (folder / "made" / "images").iterdir():
        image.replace(folder / "studies" / image.name)
    app = MedSAM2AtlasApp(
        str(resource("apps/medsam2_atlas")), str(folder / "studies"), {"device": "cpu", "learning": "false", "atlas": ""}
    )
    yield app
    app.stop()


def works(app: MedSAM2AtlasApp) -> dict[str, Any]:
    """Returns the parameter check of each kind of work by its name."""
    made: dict[str, Any] = {}
    for model in app._trainers:
        made[f"train {model}"] = lambda params, model=model: training_parameters(app, model, params)
    for model in app._infers:
        made[f"batch {model}"] = lambda params, model=model: batch_parameters(app, model, params)
    made["scoring"] = lambda params: scoring_parameters(app, "organs", params)
    made["next case"] = lambda params: sample_parameters(app, "random", params)
    return made


FOREIGN = [
    "bundle_path",
    "PYTHONPATH",
    "train_ds",
    "val_ds",
    "distributed_url",
    "distributed_backend",
    "upload",
    "image",
    "run_id",
    "model_filename",
    "local_rank",
    "timeout",
    "memory",
    "__class__",
    "x" * 10_000,
]


@pytest.mark.parametrize("name", FOREIGN)
def test_unknown_parameters_are_refused_for_all_work(server_app: MedSAM2AtlasApp, name: str) -> None:
    for kind, check in works(server_app).items():
        for value in ("/tmp/evil", None, 1):
            with pytest.raises(InputError, match="has no parameter") as caught:
                check({name: value})
            assert len(caught.value.problem) < 200, kind
            assert caught.value.remedy.startswith("Allowed: "), kind


EXTRAS = {
    "client_id": "slicer",
    "name": "train_01",
    "device": "cuda",
    "gpus": "all",
    "multi_gpu": True,
    "logging": "WARNING",
}


def test_the_options_of_info_can_be_sent_back_with_extra_parameters(server_app: MedSAM2AtlasApp) -> None:
    for model, trainer in server_app._trainers.items():
        extras = EXTRAS | {
            "dataset": "SmartCacheDataset",
            "dataloader": "ThreadDataLoader",
            "train_random_seed": 0,
            "train_batch_size": 1,
            "val_batch_size": 1,
            "tracking": "mlflow",
            "tracking_uri": "",
            "tracking_experiment_name": "",
        }
        found = training_parameters(server_app, model, trainer.config() | extras)
        kept = {key: value for key, value in trainer.config().items() if value != ""}
        assert found == kept | {"device": "cuda"}
    for model, model_task in server_app._infers.items():
        found = batch_parameters(server_app, model, model_task.config() | EXTRAS | {"save_label": True, "label_tag": "final"})
        assert found.pop("label_tag") == "final"
        assert set(found) <= set(model_task.config())
        assert not any(isinstance(value, list) for value in found.values())
    assert scoring_parameters(server_app, "organs", EXTRAS | {"y": "final", "y_pred": "unet_3d"}) == {
        "y": "final",
        "y_pred": "unet_3d",
    }
    assert sample_parameters(server_app, "random", EXTRAS | {"first": {}, "random": {"x": 1}}) == {"client_id": "slicer"}


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("train unet_3d", {"max_epochs": 0}),
        ("train unet_3d", {"max_epochs": 10**30}),
        ("train unet_3d", {"max_epochs": "many"}),
        ("train unet_3d", {"max_epochs": [1]}),
        ("train unet_3d", {"learning_rate": float("nan")}),
        ("train unet_3d", {"learning_rate": float("inf")}),
        ("train unet_3d", {"val_split": 1}),
        ("train unet_3d", {"pretrained": "perhaps"}),
        ("train unet_3d", {"pretrained": {"a": 1}}),
        ("train unet_3d", {"device": "cuda:0; rm -rf /"}),
        ("train unet_3d", {"device": "cpu\n"}),
        ("train unet_3d", {"device": "/dev/sda"}),
        ("train unet_3d", {"gpus": "0;1"}),
        ("train unet_3d", {"gpus": "../x"}),
        ("train unet_3d", {"name": "a\x00b"}),
        ("train unet_3d", {"name": {"a": 1}}),
        ("train medsam2_atlas", {"exclude": "nobody"}),
        ("train medsam2_atlas", {"exclude": ["one", {"a": 1}]}),
        ("train medsam2_atlas", {"trust": "one,../two"}),
        ("train medsam2_atlas", {"rebuild": "x" * 1000}),
        ("batch unet_3d", {"images": ["one", "../two"]}),
        ("batch unet_3d", {"images": {"a": 1}}),
        ("batch unet_3d", {"images": "none"}),
        ("batch unet_3d", {"label_tag": "../../x"}),
        ("batch unet_3d", {"organs": "heart"}),
        ("batch unet_3d", {"organs": [["liver"]]}),
        ("batch unet_3d", {"max_workers": 10**6}),
        ("batch unet_3d", {"max_batch_size": -1}),
        ("batch medsam2_atlas", {"weights": "/etc/passwd"}),
        ("batch medsam2_atlas", {"strategy": {"D": 1}}),
        ("scoring", {"y": ".."}),
        ("scoring", {"y": "x" * 100_000}),
        ("scoring", {"y_pred": {"a": 1}}),
        ("next case", {"client_id": {"a": {"b": 1}}}),
        ("next case", {"client_id": "x" * 10_000}),
        ("next case", {"label_tag": "nobody's"}),
    ],
)
def test_values_of_another_type_or_range_are_refused(server_app: MedSAM2AtlasApp, kind: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        works(server_app)[kind](params)
    assert len(str(caught.value)) < 3000


def test_no_text_of_a_client_reaches_a_command(server_app: MedSAM2AtlasApp) -> None:
    text = "text-of-a-client"
    dropped = {"name": text, "client_id": text, "tracking_uri": text, "dataset": text, "labels": [text], "description": text}
    for kind, check in works(server_app).items():
        if kind == "next case":  # runs in the server
            continue
        params = {
            key: value for key, value in dropped.items() if kind.startswith("train") or not re.match("track|dataset", key)
        }
        assert text not in json.dumps(check(params)), kind


def test_names_may_be_listed_as_texts_or_lists(server_app: MedSAM2AtlasApp) -> None:
    for given in ("one, two", ["one", "two"]):
        assert training_parameters(server_app, "medsam2_atlas", {"exclude": given}) == {"exclude": "one,two"}
    for given in ("liver, spleen", ["spleen", "liver"]):
        assert batch_parameters(server_app, "unet_3d", {"organs": given}) == {"organs": "spleen,liver"}
    assert batch_parameters(server_app, "unet_3d", {"images": ["two"]}) == {"images": ["two"]}
    assert batch_parameters(server_app, "unet_3d", {"images": "unlabeled"}) == {"images": "unlabeled"}
    assert batch_parameters(server_app, "medsam2_atlas", {"strategy": "B"}) == {"strategy": "B"}
    assert batch_parameters(server_app, "medsam2_atlas", {"mode": "fast"}) == {"mode": "fast"}
    assert infer_parameters("atlas", server_app._infers["atlas"], {"strategy": ["atlas"]}) == {"strategy": "atlas"}


@pytest.mark.parametrize(
    ("sent", "mode"),
    [({}, "exact"), ({"mode": ["exact", "fast"]}, "exact"), ({"mode": "fast"}, "fast"), ({"mode": ""}, "exact")],
)
def test_the_mode_of_a_request_reaches_the_options_of_medsam2_only(
    server_app: MedSAM2AtlasApp, sent: dict[str, Any], mode: str
) -> None:
    for name, expected in (("D", mode), ("medsam2", mode), ("unet_3d", "exact"), ("atlas", "exact")):
        assert options_of(sent, server_app._models.segmenter(name)).mode == expected
    with pytest.raises(InputError, match=r"quick: cannot be used as mode\. Choose from: exact, fast\."):
        options_of({"mode": "quick"}, server_app._models.segmenter("D"))


def test_parameters_that_are_too_long_for_a_command_are_refused(
    server_app: MedSAM2AtlasApp,
) -> None:
    with pytest.raises(InputError, match="more than 60000 bytes"):
        batch_parameters(server_app, "unet_3d", {"images": ["one"] * 20_000})


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("unet_3d", {"augment": {"a": 1}}),
        ("unet_3d", {"augment": "perhaps"}),
        ("unet_3d", {"organs": {"liver": 1}}),
        ("unet_3d", {"organs": [float("nan")]}),
        ("unet_3d", {"organs": "heart"}),
        ("unet_3d", {"result_extension": ["x"]}),
        ("unet_3d", {"result_compress": 7}),
        ("medsam2_atlas", {"weights": "../w.pt"}),
        ("medsam2_atlas", {"prompts": [["atlas"]]}),
        ("medsam2_atlas", {"mode": "quick"}),
        ("medsam2_atlas", {"mode": [["fast"]]}),
        ("medsam2", {"foreground": {"a": 1}}),
        ("medsam2", {"background": 1e308}),
        ("medsam2", {"boxes": [[0, 0, 0]] * 100_000}),
        ("medsam2", {"label": {"a": 1}}),
        ("medsam2", {"reach": "x" * 1000}),
    ],
)
def test_models_refuse_options_of_another_type(server_app: MedSAM2AtlasApp, model: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        infer_parameters(model, server_app._infers[model], params)
    assert len(str(caught.value)) < 3000


def test_a_model_ignores_unknown_options_and_accepts_its_own(server_app: MedSAM2AtlasApp) -> None:
    foreign = {
        "upload": "/etc/passwd",
        "image": "x",
        "model": "y",
        "memory": "cpu",
        "save_label": True,
        "result_dtype": "uint8",
    }
    for model, model_task in server_app._infers.items():
        found = infer_parameters(model, model_task, model_task.config() | foreign | {"result_extension": ".nrrd"})
        assert set(found) <= {*model_task.config(), "result_extension"}
    clicks = {"label": "liver", "foreground": [[1, 2, 3]], "background": "[]", "boxes": []}
    assert infer_parameters("medsam2", server_app._infers["medsam2"], clicks) == {
        "label": "liver",
        "foreground": [[1, 2, 3]],
        "background": "[]",
    }


def test_a_process_gets_only_checked_parameters(server_app: MedSAM2AtlasApp, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(work, "app_instance", lambda: server_app)
    monkeypatch.setattr(task, "app_instance", lambda: server_app)
    monkeypatch.setattr(task, "run_background_task", lambda request, method: begun.append(request) or {"id": method})
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", server_app.studies)
    runs = (partial(work.run_training, "unet_3d"), partial(work.run_scoring, "organs"))
    for run in (*runs, partial(work.run_batch, "unet_3d", BatchInferImageType.IMAGES_ALL)):
        for name in ("bundle_path", "PYTHONPATH", "tracking_id"):
            with pytest.raises(InputError, match=f"has no parameter '{name}'"):
                run({name: "/tmp/evil"})
        assert not begun
        run({"name": "/tmp/evil", "client_id": "/tmp/evil", "gpus": "1", "multi_gpu": True, "model": "x", "method": "y"})
        assert begun[-1].get("gpus") == "-1"  # the client's value is not used
        assert begun.pop().keys() <= {"model", "method", "images", "device", "gpus", "multi_gpu"}
    work.run_training("unet_3d", {"max_epochs": "3", "pretrained": "false", "device": "cpu"})
    work.run_scoring("organs", {"y": "final"})
    assert begun[0] == {"model": "unet_3d", "max_epochs": 3, "pretrained": False, "device": "cpu", "gpus": "-1"}
    assert begun[1] == {"method": "organs", "y": "final", "gpus": "-1"}
