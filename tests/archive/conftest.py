"""Studies to verify, back up and restore: a small folder, and a complete installation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from compatibility.generations import generations
from medsam2_atlas.archive import Place
from medsam2_atlas.storage import StudyStore
from storage.test_store import ct, label

NEWEST = generations()[-1]


@dataclass(frozen=True)
class Installation:
    """Files of an earlier release: a studies folder with atlas, weights, reports and measures, and a PACS' work folder."""

    home: Path
    url: str

    @property
    def studies(self) -> Path:
        return self.home / "studies"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder in which commands store their progress if the studies cannot be written."""
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NEWEST.unpack(tmp_path_factory.mktemp("generation") / "home")


@pytest.fixture
def installation(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """Returns a copy of the installation, and sets the environment to its model folder."""
    home = tmp_path / "home"
    for part in ("studies", "models", "archive"):
        if (unpacked / part).is_dir():
            shutil.copytree(unpacked / part, home / part, symlinks=True)
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(home / "models"))
    return Installation(home, str(NEWEST.made_by["notes"]["pacs"]["url"]))


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with two CTs, `a` and `b`; `a` has three versions of its `final` label map and one prediction."""
    path, file = tmp_path_factory.mktemp("annotated") / "studies", tmp_path_factory.mktemp("labels") / "label.nii.gz"
    for name in ("a", "b"):
        ct(path, name)
    store = StudyStore(path)
    for number, author in enumerate(("kim", "lee", "kim"), 1):
        store.save_label("a", "final", label(file, number), author=author, info={"seconds": number})
    store.save_prediction("a", "atlas", label(file, 6))
    return path


@pytest.fixture
def folder(annotated: Path, tmp_path: Path) -> Path:
    """Returns a copy of the annotated folder."""
    return Path(shutil.copytree(annotated, tmp_path / "studies"))


@pytest.fixture
def place(folder: Path) -> Place:
    return Place.existing(str(folder))


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Returns a function that changes one bit in the middle of a file but not its times, as a failing disk does."""

    def flipped(file: Path) -> None:
        state = file.stat()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    return flipped
