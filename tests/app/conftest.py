"""Fixtures with the real server, started once for each test module that uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles


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
