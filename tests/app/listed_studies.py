"""A folder of six studies and a file that is no CT, and a server with a team that lists them, for tests of the worklist."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from starlette.testclient import TestClient

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.storage import Drafts
from server import worklist as routes
from server.application import create_app
from server.config import ServerConfig
from server.people import User
from tasks.worklist_parts import WorklistParts
from token_files import bearer, token_of, tokens_for

MODELS = ("medsam2_atlas", "unet_3d")
KIM, LEE = User("kim", "annotator", "token:kim"), User("lee", "reviewer", "token:lee")


def six_studies(folder: Path) -> StudyDatastore:
    """Returns the studies `a` to `f`, and `g.mhd`, which is no CT."""
    for name in "abcdef":
        image = sitk.GetImageFromArray(np.arange(4800, dtype=np.int16).reshape(12, 20, 20) % 400)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    (folder / "g.mhd").write_text("x")
    return StudyDatastore(folder, models=MODELS)


def label_in(folder: Path) -> Path:
    """Writes a label map of them, and returns its file."""
    array = np.zeros((12, 20, 20), np.uint8)
    array[3:8, 4:16, 4:16] = 6
    (folder / ".sent").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / ".sent" / "label.nii.gz"))
    return folder / ".sent" / "label.nii.gz"


def save_draft(datastore: StudyDatastore, study: str, person_id: str) -> None:
    folder = datastore.store.work.path / "drafts" / study
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{hashlib.sha256(person_id.encode()).hexdigest()[:32]}.draft").write_bytes(b"{}")


def sign_off(datastore: StudyDatastore, study: str, label: Path, who: str = "kim") -> None:
    datastore.store.save_label(study, "final", label, author=who, author_id=f"token:{who}")


class Task:
    """A model."""

    description, inputs = "A model", frozenset[str]()

    def __init__(self, problem: str = "", mark: str = "") -> None:
        self.problem, self.mark = problem, mark

    def missing(self) -> str:
        return self.problem

    def version(self) -> str:
        return "7"

    def info(self) -> dict[str, Any]:
        return {"weights_mark": self.mark}


class Team:
    """A server with a studies folder in this process, and its people."""

    def __init__(self, datastore: StudyDatastore, table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tasks = {"medsam2_atlas": Task(), "unet_3d": Task("has no weights."), "medsam2": Task(mark="demo weights")}
        tasks["medsam2"].inputs = frozenset({"clicks"})
        learner: Any = SimpleNamespace(problems=dict, progress=lambda: (2, 6))
        drafts = Drafts(datastore.store, 10**6)
        parts = WorklistParts(datastore, tasks, table, learner, drafts, CHECK, True, 10**7)
        instance = SimpleNamespace(worklist=parts, datastore=lambda: datastore)
        monkeypatch.setattr(routes, "app_instance", lambda: instance)
        people = {"kim": "annotator", "ann": "annotator", "lee": "reviewer", "max": "admin"}
        tokens = tokens_for(tmp_path / "tokens.yaml", people)
        self.app, self.parts = create_app(ServerConfig(tokens=str(tokens))), parts
        self.client = TestClient(self.app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    def ask(self, who: str, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        return self.client.get(f"/worklist/{path}", params=query, headers={**bearer(token_of(who)), **(headers or {})})
