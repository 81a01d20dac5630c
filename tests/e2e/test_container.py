"""The app under a container's constraints: a read-only installation, a user without home and name, no capabilities."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

from app.fake_pacs import fake_pacs
from e2e.confined import Container, why_not
from medsam2_atlas.atlas import ReferenceFiles
from series_files import write_series
from waiting import until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no namespaces here: {why_not()}")

UNET = """
dimensions: 3
spacing: [6.0, 6.0, 6.0]
patch: [32, 32, 32]
filters: [8, 16, 32]
heads: 1
training: {epochs: 1, patches_per_case: 1, validate_every: 1, learning_rate: 0.01}
"""


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path / "data", tmp_path / "log")


@pytest.fixture
def studies(container: Container, references: list[ReferenceFiles]) -> Path:
    """A studies folder in /data, which belongs to the container's user, with two signed-off cases and one to do."""
    folder = container.data / "studies"
    (folder / "labels/final").mkdir(parents=True)
    for number, files in enumerate(references[:3]):
        shutil.copy(files.image, folder / f"{number}.nii.gz")
        if number:
            shutil.copy(files.label, folder / "labels/final" / f"{number}.nii.gz")
    for path in (container.data, *container.data.rglob("*")):
        os.chown(path, *container.user)
    return folder


def test_a_read_only_installation_of_another_user_serves_saves_trains_and_restarts(
    container: Container, studies: Path, references: list[ReferenceFiles], tmp_path: Path
) -> None:
    (tmp_path / "unet.yaml").write_text(UNET)
    container.files["/run/unet.yaml"] = tmp_path / "unet.yaml"
    arguments = ("/data/studies", "--conf=learning=false", "--conf=unet_3d_config=/run/unet.yaml")
    with container.serving(*arguments) as url:
        client = MONAILabelClient(url, tmpdir=str(tmp_path))
        ready = requests.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True), ready.text
        client.save_label("0", str(references[0].label), "final", {})
        session = client.create_session(str(references[0].image))["session_id"]
        assert client.get_session(session)["name"] == session
        client.train_start("unet_3d", {"pretrained": False, "max_epochs": 1})
        until(lambda: client.train_status(check_if_running=False)["status"] != "RUNNING", 240, "the training does not end")
        trained = client.train_status()
        assert trained["status"] == "DONE", container.log.read_text()[-4000:]
        picture = requests.get(f"{url}/review/picture/0")
        assert picture.status_code == 200, picture.text
    first = container.log.read_text()
    for sign in ("Permission denied", "Read-only file system", "No writable", "temporary cache directory", "Traceback"):
        assert sign not in first, first
    assert list((studies / ".medsam2_atlas/unet_3d").glob("*.pt"))
    with container.serving(*arguments) as url:  # as the same process number as before, in a namespace of its own
        client = MONAILabelClient(url, tmpdir=str(tmp_path))
        assert requests.get(f"{url}/readyz").json()["ready"] is True
        assert client.info()["train_stats"]["unet_3d"], "what was trained is gone"
        saved = requests.get(f"{url}/datastore/label", params={"label": "0", "tag": "final"})
        assert saved.status_code == 200
    for path in container.data.rglob("*"):
        assert path.lstat().st_uid == container.user[0]


def test_series_of_a_pacs_are_served_and_labels_sent_back(
    container: Container, target_files: ReferenceFiles, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    with fake_pacs() as pacs:
        series = pacs.add(files)
        with container.serving(pacs.url, "--conf=learning=false") as url:
            assert requests.get(f"{url}/readyz").json()["ready"] is True
            image = requests.get(f"{url}/datastore/image", params={"image": series})
            assert image.status_code == 200, image.text
            client = MONAILabelClient(url, tmpdir=str(tmp_path))
            client.save_label(series, str(target_files.label), "final", {})
            until(lambda: pacs.stored, 60, "the label is not sent")
