"""The services of compose.yaml under the constraints of their containers, without an engine (see `confined`).

Programs are read-only, users have no home and no name, and there are no capabilities.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

from app.fake_pacs import fake_pacs
from e2e.confined import Container, why_not
from e2e.dockerfile import ROOT, Dockerfile
from e2e.orthanc import free_port, orthanc_program
from medsam2_atlas.atlas import ReferenceFiles
from series_files import write_series
from tiny_unets import small_unet_file
from waiting import until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"containers cannot be imitated: {why_not()}")

REFUSED = ("Permission denied", "Read-only file system", "No writable", "temporary cache directory", "Traceback")
GET = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
print(urllib.request.urlopen(sys.argv[1], context=context, timeout=5).read().decode())
"""


@pytest.fixture
def app(tmp_path: Path) -> Container:
    return Container("app", tmp_path / "data", Dockerfile.of(ROOT / "deploy" / "app.Dockerfile"))


@pytest.fixture
def studies(app: Container, references: list[ReferenceFiles]) -> Path:
    """Returns a studies folder in /data that belongs to the container's user, with two signed-off cases and one open case."""
    folder = app.data / "studies"
    (folder / "labels/final").mkdir(parents=True)
    for number, files in enumerate(references[:3]):
        shutil.copy(files.image, folder / f"{number}.nii.gz")
        if number:
            shutil.copy(files.label, folder / "labels/final" / f"{number}.nii.gz")
    for path in (app.data, *app.data.rglob("*")):
        os.chown(path, *app.user)
    return folder


@contextmanager
def serving(app: Container, *arguments: str) -> Iterator[str]:
    """Yields the address of the app's server."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    conf = ("--conf=learning=false", f"--port={port}")
    with app.running("serve", *arguments, *conf, ready=lambda _: answers(f"{url}/healthz")):
        yield url


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


def check_traces(app: Container) -> None:
    """Checks that nothing was refused and that all files belong to the container's user."""
    text = app.log.read_text()
    assert not [sign for sign in REFUSED if sign in text], text[-4000:]
    assert {path.lstat().st_uid for path in app.data.rglob("*")} == {app.user[0]}


def test_a_read_only_installation_of_another_user_serves_saves_and_restarts(
    app: Container, studies: Path, references: list[ReferenceFiles], tmp_path: Path
) -> None:
    with serving(app, "/data/studies") as url:
        client = MONAILabelClient(url, tmpdir=str(tmp_path))
        ready = requests.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True), ready.text
        client.save_label("0", str(references[0].label), "final", {})
        session = client.create_session(str(references[0].image))["session_id"]
        assert client.get_session(session)["name"] == session
        picture = requests.get(f"{url}/worklist/picture", params={"study": "0"})
        assert picture.status_code == 200, picture.text
        assert {path.name for path in app.data.iterdir()} == {"studies", "state", "sessions", "tmp"}
    with serving(app, "/data/studies") as url:  # with the same process number as before, in another namespace
        assert requests.get(f"{url}/readyz").json()["ready"] is True
        saved = requests.get(f"{url}/datastore/label", params={"label": "0", "tag": "final"})
        assert saved.status_code == 200
    check_traces(app)


@pytest.mark.slow
def test_a_training_runs_in_a_read_only_installation(app: Container, studies: Path, tmp_path: Path) -> None:
    small_unet_file(tmp_path / "unet.yaml", epochs=1, patches_per_case=1, validate_every=1, learning_rate=0.01)
    app.files["/run/unet.yaml"] = tmp_path / "unet.yaml"
    with serving(app, "/data/studies", "--conf=unet_3d_config=/run/unet.yaml") as url:
        client = MONAILabelClient(url, tmpdir=str(tmp_path))
        client.train_start("unet_3d", {"pretrained": False})
        until(lambda: client.train_status()["status"] not in ("PENDING", "RUNNING"), 400, "the training does not end")
        assert client.train_status()["status"] == "DONE", app.log.read_text()[-4000:]
    assert (studies / ".medsam2_atlas/unet_3d/best.pt").is_file()
    check_traces(app)


@pytest.mark.slow
def test_series_are_served_and_label_maps_sent_back(app: Container, target_files: ReferenceFiles, tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    with fake_pacs() as pacs:
        series = pacs.add(files)
        with serving(app, pacs.url) as url:
            assert requests.get(f"{url}/readyz").json()["ready"] is True
            image = requests.get(f"{url}/datastore/image", params={"image": series})
            assert image.status_code == 200, image.text
            client = MONAILabelClient(url, tmpdir=str(tmp_path))
            client.save_label(series, str(target_files.label), "final", {})
            until(lambda: pacs.stored, 60, "the label is not sent")
    check_traces(app)


@pytest.mark.skipif(orthanc_program() is None, reason="Orthanc is not installed")
def test_orthanc_starts_without_capabilities_and_writes_into_its_volume_only(tmp_path: Path) -> None:
    image = Dockerfile.of(ROOT / "deploy" / "orthanc.Dockerfile")
    # Debian's folders are mounted as a whole here, so the script is in another folder.
    entrypoint = image.entrypoint[0]
    assert ("apps/orthanc.sh", entrypoint) in image.copies
    image = dataclasses.replace(image, entrypoint=["/run/orthanc.sh", *image.entrypoint[1:]])
    http = free_port()
    environment = {"ORTHANC_USER": "atlas", "ORTHANC_PASSWORD": "secret", "ORTHANC_HTTP_PORT": str(http)}
    environment["ORTHANC_DICOM_PORT"] = str(free_port())
    script = {"/run/orthanc.sh": ROOT / "apps" / "orthanc.sh"}
    orthanc = Container("orthanc", tmp_path / "data", image, environment, script)
    for _ in range(2):
        with orthanc.running(ready=lambda _: answers(f"http://127.0.0.1:{http}/system")):
            system = requests.get(f"http://127.0.0.1:{http}/system", auth=("atlas", "secret"), timeout=10)
            assert system.json()["Name"] == "medsam2_atlas"
    assert (orthanc.data / "orthanc.json").stat().st_mode & 0o077 == 0  # it contains the password
    check_traces(orthanc)


@pytest.mark.skipif(
    shutil.which("caddy") is None or shutil.which("nsenter") is None, reason="Caddy or nsenter is not installed"
)
def test_the_proxy_listens_on_443_with_one_capability_and_writes_into_its_volume_only(tmp_path: Path) -> None:
    # These are the settings of the image `caddy:2`.
    folders = {"XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/config"}
    command = ["caddy", "run", "--config", "/run/Caddyfile", "--adapter", "caddyfile"]
    image = Dockerfile(environment=folders, user="0:0", entrypoint=command)
    files = {"/run/Caddyfile": ROOT / "deploy" / "Caddyfile"}
    proxy = Container("proxy", tmp_path / "data", image, {"ATLAS_UPSTREAM": "127.0.0.1:1"}, files, own_net=True)
    root = proxy.data / "caddy/pki/authorities/local/root.crt"

    def ready(number: int) -> bool:
        inside = ["nsenter", f"--target={number}", "--net"]
        got = subprocess.run(
            [*inside, sys.executable, "-c", GET, "https://localhost/", str(root)], capture_output=True, text=True
        )
        return "502" in got.stderr  # the proxy has no upstream here

    with proxy.running(ready=ready):
        pass
    check_traces(proxy)
