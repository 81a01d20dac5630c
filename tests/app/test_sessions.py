"""Sessions store only uploads that can be read as images, and no answer contains the path of an image."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fastapi import FastAPI
from starlette.testclient import TestClient

from datastores.session_folders import SessionFolders
from series_files import write_series
from server import errors, sessions
from server.access import LOCAL
from server.config import ServerConfig


def archive(name: str = "evil.py") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr(name, "raise SystemExit")
    return stream.getvalue()


def ct() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(1).integers(-500, 500, (8, 16, 16)).astype(np.int16))
    image.SetSpacing((1.0, 1.0, 2.0))
    return image


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Returns a client of the session routes alone, as the local user."""
    folders = SessionFolders(str(store))
    monkeypatch.setattr(sessions, "app_instance", lambda: SimpleNamespace(sessions=lambda: folders))
    inner = FastAPI()
    inner.state.config = ServerConfig()
    inner.include_router(sessions.router)
    errors.install(inner)

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        scope["medsam2_atlas.user"] = LOCAL
        await inner(scope, receive, send)

    return TestClient(asked)


def kept(store: Path) -> list[Path]:
    return [file for file in store.rglob("*") if file.is_file()] if store.exists() else []


@pytest.mark.parametrize(
    "name", ["ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha", "ct.zip", "ct.py", "ct", "../ct.nii.gz", "ct.dcm"]
)
def test_an_upload_that_is_not_an_image_is_refused_and_not_stored(client: TestClient, store: Path, name: str) -> None:
    for content in (archive(), b"", b"#!/bin/sh\n", bytes(1000)):
        answer = client.put("/session/", files={"files": (name, content)})
        assert answer.status_code == 422, answer.text
        assert str(store.parent) not in answer.text
    assert not kept(store)


def test_archives_are_not_unpacked(client: TestClient, store: Path) -> None:
    answer = client.put("/session/", params={"uncompress": True}, files={"files": ("ct.zip", archive("../../evil.py"))})
    assert answer.status_code == 422
    assert "as `files`" in answer.json()["error"]["remedy"]
    assert not kept(store)


def test_an_image_above_the_limits_is_refused_and_not_stored(client: TestClient, store: Path, tmp_path: Path) -> None:
    sitk.WriteImage(ct(), str(tmp_path / "ct.nrrd"))
    content = (tmp_path / "ct.nrrd").read_bytes().replace(b"sizes: 16 16 8", b"sizes: 16000 16000 8000")
    answer = client.put("/session/", files={"files": ("ct.nrrd", content)})
    assert answer.status_code == 422
    assert "million voxels" in answer.text
    assert not kept(store)


def test_an_image_is_stored_and_no_answer_contains_its_path(client: TestClient, store: Path, tmp_path: Path) -> None:
    sitk.WriteImage(ct(), str(tmp_path / "ct.nii.gz"))
    content = (tmp_path / "ct.nii.gz").read_bytes()
    made = client.put("/session/", files={"files": ("ct.nii.gz", content)})
    session = made.json()["session_id"]
    assert client.get(f"/session/{session}", params={"image": True}).content == content
    answers = [made, client.get(f"/session/{session}"), client.delete(f"/session/{session}")]
    for answer in answers:
        assert answer.status_code == 200
        assert str(tmp_path) not in answer.text
    assert answers[1].json()["image"] == "image.nii.gz"
    assert answers[1].json()["name"] == session
    assert not kept(store)


def test_only_the_slices_of_a_series_are_stored(client: TestClient, store: Path, tmp_path: Path) -> None:
    slices = [file.read_bytes() for file in write_series(tmp_path / "series", ct())]
    good = [("files", (f"{n}.dcm", content)) for n, content in enumerate(slices)]
    others = [archive(), slices[0][:132] + archive(), b"text"]
    more = [("files", (f"more{n}.dcm", content)) for n, content in enumerate(others)]
    made = client.put("/session/", files=[more[0], *good, *more[1:]])
    assert made.status_code == 200, made.text
    assert sorted(file.read_bytes() for file in kept(store) if file.name != "meta.info") == sorted(slices)
    client.delete(f"/session/{made.json()['session_id']}")
    assert client.put("/session/", files=more).status_code == 422
    assert not kept(store)
