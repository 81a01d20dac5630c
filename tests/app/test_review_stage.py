"""With the review stage on, models and atlas are trained only on label maps that another person has accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from datastores.client_info import SERVER_KEYS
from datastores.study_datastore import StudyDatastore
from listed_cases import case_states
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.storage import Person
from server import errors, studies
from server.access import User
from server.config import server_config
from storage.test_store import ct, label
from tasks import atlas_trainer
from tasks.atlas_trainer import AtlasTrainTask
from tasks.finals import training_finals
from tasks.unet_trainer import UNetTrainTask

MODELS = ("medsam2_atlas", "unet_3d")


@pytest.fixture
def datastore(tmp_path: Path) -> StudyDatastore:
    """Returns a datastore in which kim has signed off `a` and `b`, and `c` has label maps of all other tags."""
    for name in ("a", "b", "c"):
        ct(tmp_path / "studies", name)
    found = StudyDatastore(tmp_path / "studies", models=MODELS)
    file = label(tmp_path / "x.nii.gz", 6)
    for name in ("a", "b"):
        found.store.save_label(name, "final", file, author="kim", author_id="token:kim")
    for tag in MODELS:
        found.store.save_prediction("c", tag, file)
    for tag in ("original", "draft", "FINAL"):
        found.store.save_label("c", tag, file, author="kim")
    found.store.review.turn(True)
    return found


def test_models_are_trained_on_accepted_final_label_maps_only(
    datastore: StudyDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore.store.accept_label("a", "final", 1, Person("lee", "token:lee"))
    assert [files.name for files in training_finals(datastore).files] == ["a"]
    assert "no reviewer has accepted" in training_finals(datastore).problems["b"]
    assert [Path(entry["image"]).name for entry in datastore.datalist()] == ["a.nii.gz"]
    task: Any = object.__new__(UNetTrainTask)
    task._models = SimpleNamespace(hu=CHECK)
    for request in ({}, {"tag": "draft"}, {"label_tag": "original", "y": "draft"}):
        assert [case.name for case in task.pre_process(request, datastore)] == ["a"]
    given: list[Any] = []

    def grow(work: Any, base: Any, finals: Any, options: Any, skipped: Any, **_: Any) -> dict[str, Any]:
        given.extend([files.name for files in finals])
        return {"refused": skipped}

    monkeypatch.setattr(atlas_trainer, "grow_studies_atlas", grow)
    models: Any = SimpleNamespace(work=None, hu=CHECK, base_atlas=lambda: None)
    report = AtlasTrainTask(models)({}, datastore)
    assert (given, list(report["refused"])) == (["a"], ["b"])
    datastore.store.review.turn(False)
    assert [files.name for files in training_finals(datastore).files] == ["a", "b"]


def test_cases_show_whether_they_wait_for_a_reviewer(datastore: StudyDatastore, tmp_path: Path) -> None:
    datastore.store.accept_label("a", "final", 1, Person("lee", "token:lee"))
    cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / "t.sqlite"), MODELS)}
    shown = [(cases[name]["accepted"], cases[name]["state"]) for name in "abc"]
    assert shown == [("lee", "signed off"), ("", "waits for review"), ("", "predicted")]
    assert datastore.get_label_info("a", "final")["accepted"]["by_id"] == "token:lee"
    assert datastore.get_label_info("b", "final")["accepted"] is None


@pytest.fixture
def client(datastore: StudyDatastore, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    instance = SimpleNamespace(datastore=lambda: datastore, on_save_label=lambda *_: None)
    monkeypatch.setattr(studies, "app_instance", lambda: instance)
    app = FastAPI()
    app.include_router(studies.router)
    errors.install(app)

    @app.middleware("http")
    async def who(request: Request, call_next: Any) -> Any:
        name = request.headers["who"]
        request.scope["medsam2_atlas.user"] = User(name, "reviewer", f"token:{name}")
        return await call_next(request)

    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def test_a_reviewer_accepts_a_reviewed_version_but_not_their_own(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    query = {"label": "a", "version": "1"}
    assert client.post("/datastore/label/accept", params=query, headers={"who": "kim"}).status_code in (400, 422)
    assert client.post("/datastore/label/accept", params={"label": "a"}, headers={"who": "lee"}).status_code == 422
    accepted = client.post("/datastore/label/accept", params=query, headers={"who": "lee"})
    assert accepted.status_code == 200, accepted.text
    assert accepted.json()["accepted"]["by"] == "lee"
    datastore.store.save_label("a", "final", label(tmp_path / "y.nii.gz", 7), author="kim", author_id="token:kim")
    late = client.post("/datastore/label/accept", params=query, headers={"who": "lee"})
    assert (late.status_code, "version 2" in late.text) == (409, True)
    listed = client.get("/datastore/label/versions", params={"label": "a"}, headers={"who": "lee"}).json()
    assert [(version["accepted"] or {}).get("by") for version in listed] == ["lee", None]


def test_a_client_cannot_write_an_acceptance(client: TestClient, datastore: StudyDatastore) -> None:
    sent = {"info": '{"accepted": {"by": "lee"}}'}
    client.put("/datastore/label/info", params={"label": "b", "tag": "final"}, data=sent, headers={"who": "kim"})
    assert datastore.get_label_info("b", "final")["accepted"] is None
    assert "accepted" in SERVER_KEYS
    assert [files.name for files in training_finals(datastore).files] == []


def test_a_review_stage_without_a_login_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="review needs users"):
        server_config({"server_review": "true"})
    assert server_config({"server_review": "true", "server_tokens": str(tmp_path / "t.yaml")}).review
    assert not server_config({}).review
