"""Clients get disk errors with the right status."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from starlette.testclient import TestClient

from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.imaging.decoding import UnreadableFileError
from server import errors
from server.forms import LimitedRoute
from server.metrics import Metrics


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/studies/x")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FULL, 507),
        (OSError(errno.EDQUOT, "quota"), 507),
        (OSError(errno.EROFS, "read-only", "/studies/x"), 507),
        (caused(HTTPException(400, "There was an error parsing the body"), FULL), 507),
        (caused(RuntimeError("writing failed"), FULL), 507),
        (caused(StorageError("x", "cannot be kept."), FULL), 507),
        (sqlite3.OperationalError("database or disk is full"), 507),
        (caused(StorageError("index", "fails."), sqlite3.OperationalError("attempt to write a readonly database")), 507),
        (caused(ConflictError("x", "is newer."), FULL), 409),
        (InputError("x", "is no image."), 422),
        (UnreadableFileError("x", "ended its reader."), 422),
        (PermissionError(errno.EACCES, "Permission denied", "/studies/secret/first.nii.gz"), 409),
        (FileNotFoundError(errno.ENOENT, "No such file", "/studies/first.nii.gz"), 404),
        (OSError(errno.EIO, "Input/output error", "/studies/first.nii.gz"), 409),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (RuntimeError("unexpected"), 500),
    ],
)
def test_disk_errors_have_their_own_status(error: Exception, status: int) -> None:
    answer = errors.from_error(error)
    assert answer.status_code == status
    about = json.loads(bytes(answer.body))
    assert "/studies" not in about["detail"]
    if status == 507 and not isinstance(error, StorageError):
        assert "space" in about["error"]["remedy"]


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.router.route_class = LimitedRoute
    errors.install(app)

    @app.get("/file")
    def file(path: str) -> Any:
        return FileResponse(path)

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_a_file_that_cannot_be_read_is_reported_before_the_answer_begins(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "label.nii.gz").write_bytes(b"x")
    assert client.get("/file", params={"path": str(tmp_path / "label.nii.gz")}).content == b"x"
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    for name, status in (("loop.nii.gz", 409), (".", 409), ("none.nii.gz", 404)):
        answer = client.get("/file", params={"path": str(tmp_path / name)})
        assert answer.status_code == status
        assert "cannot be used" in answer.json()["detail"]


def test_other_metrics_are_shown_if_the_studies_cannot_be_counted() -> None:
    def studies() -> dict[str, Any]:
        raise PermissionError("no")

    metrics = Metrics(lambda: {"running": 1, "waiting": 2}, studies)
    assert b'medsam2_atlas_queue{state="waiting"} 2.0' in metrics.text()
