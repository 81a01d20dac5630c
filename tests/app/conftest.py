"""Fixtures with the real server, started once for each test module that uses it, and with a folder of six studies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.annotating import annotated
from app.listed_studies import label_in, six_studies
from app.running import server
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.imaging.volume import read_labels


@pytest.fixture(scope="module")
def studies(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for name in ("first", "second"):
        shutil.copy(short_files.image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def url(studies: Path, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    conf = {
        "atlas": str(atlas_folder),
        "learning": "false",
        "server_queue": "2",
        "server_label_mb": "1",
        "server_head_seconds": "3",
        "server_gone_seconds": "2",
    }
    with server(studies, tmp_path_factory.mktemp("server"), conf) as client:
        yield client.get_server_url().rstrip("/")


@pytest.fixture(scope="module")
def place(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yields the URL of a server for `/annotation`, and its studies folder."""
    with annotated(short_files.image, tmp_path_factory.mktemp("annotated")) as found:
        yield found


@pytest.fixture(scope="module")
def truth(short_files: ReferenceFiles) -> np.ndarray:
    """Returns the organs `[z, y, x]` as a viewer shows them: on the LPS volume."""
    return read_labels(short_files.label).array


@pytest.fixture
def datastore(tmp_path: Path) -> StudyDatastore:
    return six_studies(tmp_path)


@pytest.fixture
def label(tmp_path: Path) -> Path:
    return label_in(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> ScoreTable:
    return ScoreTable(tmp_path / ".measures.sqlite")
