"""Environment variables and `--conf` keys in users' scripts and unit files keep their meaning."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from monailabel.config import Settings

from compatibility.generations import generations
from datastores import opening
from main import MedSAM2AtlasApp
from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.base.resource import model_folder, resource
from medsam2_atlas.medsam2 import find_checkpoint
from medsam2_atlas.segmenters.places import find_atlas, find_unet, known_checkpoints
from medsam2_atlas.storage import StudyStore, WorkFolder
from medsam2_atlas.studies import models as models_module
from medsam2_atlas.studies.models import Models
from server.config import server_config

CHECKOUT = resource("Makefile").parent
SERVER = {
    "queue": ("3", 3),
    "queue_per_person": ("2", 2),
    "sessions_per_person": ("1", 1),
    "requests_per_person": ("9", 9),
    "connections": ("50", 50),
    "connections_per_address": ("8", 8),
    "head_seconds": ("2.5", 2.5),
    "body_seconds": ("4", 4.0),
    "read_seconds": ("6", 6.0),
    "upload_mb": ("5", 5),
    "label_mb": ("6", 6),
    "reader_processes": ("1", 1),
    "reader_voxels_million": ("7", 7),
    "reader_memory_mb": ("2000", 2000),
    "reader_seconds": ("8.5", 8.5),
    "roots": ("/a, /b", ("/a", "/b")),
    "hu": ("-1024", "-1024"),
    "tokens": ("/etc/tokens.yaml", "/etc/tokens.yaml"),
    "oidc_issuer": ("https://login.example.org/realms/x", "https://login.example.org/realms/x"),
    "oidc_audience": ("x", "x"),
    "oidc_roles": ("groups", "groups"),
    "oidc_name": ("email", "email"),
    "origins": ("https://a.example.org,https://b.example.org", ("https://a.example.org", "https://b.example.org")),
    "hosts": ("a.example.org", ("a.example.org",)),
    "oidc_stale_minutes": ("0", 0),
    "login_hours": ("12", 12.0),
    "login_idle_hours": ("0.5", 0.5),
}
"""Keys of `--conf server_KEY=TEXT`, each with a text and the value that the text gives."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the newest generation's files."""
    return generations()[-1].unpack(tmp_path_factory.mktemp("names") / "home")


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


@pytest.mark.parametrize("key", SERVER)
def test_a_server_setting_has_its_value(key: str) -> None:
    text, value = SERVER[key]
    assert getattr(server_config({f"server_{key}": text}), key) == value


def test_an_unknown_server_setting_is_refused() -> None:
    with pytest.raises(InputError, match="server settings"):
        server_config({"server_queues": "3"})


@pytest.mark.parametrize("name", ["unet_3d", "unet_2d"])
def test_conf_names_weights_and_configurations_of_unets(home: Path, tmp_path: Path, name: str) -> None:
    conf = {
        "device": "cpu",
        name: str(home / "models" / "unet_2d.pt"),
        f"{name}_config": str(home / "settings/small-unet.yaml"),
    }
    models = Models(conf, WorkFolder(tmp_path))
    assert models.device.type == "cpu"
    assert models.unet(name).mark == "for tests"
    assert models.unet_config(name).filters == (4, 8, 16)


def test_conf_names_atlas_checkpoint_and_network(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(models_module, "load_weights", lambda *arguments: calls.append(arguments))
    file = touch(tmp_path / "own.pt")
    conf = {"atlas": str(home / "atlas"), "checkpoint": str(file), "config": "demo", "device": "cpu"}
    models = Models(conf, WorkFolder(tmp_path))
    assert models.atlas().source == str(home / "atlas")
    assert models.weight_names()[0] == "own.pt"
    models.weights()
    assert [arguments[:2] for arguments in calls] == [(file, "demo")]


@pytest.mark.parametrize(("learning", "foundation"), [("false", "medsam2_atlas"), ("true", "atlas")])
def test_conf_switches_background_measuring_and_its_model(tmp_path: Path, learning: str, foundation: str) -> None:
    conf = {"device": "cpu", "learning": learning, "foundation": foundation}
    app = MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(tmp_path), conf)
    try:
        assert app._learner.foundation == foundation
        assert app._learns == (learning == "true")
    finally:
        app.stop()


def test_a_variable_names_the_atlas(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS", str(home / "atlas"))
    assert find_atlas() == home / "atlas"
    work = home / "studies" / ".medsam2_atlas" / "atlas"
    assert find_atlas(work).parent == work / "versions"


def test_variables_name_the_model_folder_and_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM2_ATLAS_MODELS", raising=False)
    monkeypatch.delenv("MEDSAM2_CHECKPOINT", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert model_folder() == tmp_path / "data" / "medsam2_atlas" / "models"
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path / "models"))
    for name in ("MedSAM2_latest.pt", "MedSAM2_2411.pt", "unet_2d.pt", "unet_3d.pt"):
        touch(tmp_path / "models" / name)
    touch(tmp_path / "models" / "atlas" / "atlas.json")
    assert find_checkpoint() == tmp_path / "models" / "MedSAM2_latest.pt"
    assert set(known_checkpoints()) == {"MedSAM2_latest.pt", "MedSAM2_2411.pt", "medsam2_demo.pt"}
    assert [find_unet(name) for name in ("unet_2d", "unet_3d")] == [tmp_path / "models" / f"unet_{n}d.pt" for n in (2, 3)]
    monkeypatch.delenv("MEDSAM2_ATLAS", raising=False)
    assert find_atlas() == tmp_path / "models" / "atlas"
    monkeypatch.setenv("MEDSAM2_CHECKPOINT", str(touch(tmp_path / "own.pt")))
    assert find_checkpoint() == tmp_path / "own.pt"
    monkeypatch.setenv("MEDSAM2_CHECKPOINT", str(tmp_path / "none.pt"))
    with pytest.raises(WeightsError, match=r"from \$MEDSAM2_CHECKPOINT"):
        find_checkpoint()


def test_a_variable_allows_links_into_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "linked.nii.gz").symlink_to(touch(tmp_path / "cts" / "linked.nii.gz"))
    assert set(StudyStore(studies).images()) == set()
    monkeypatch.setenv("MEDSAM2_ATLAS_ROOTS", os.pathsep.join([str(tmp_path / "other"), str(tmp_path / "cts")]))
    assert set(StudyStore(studies).images()) == {"linked"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DICOMWEB_USERNAME", "atlas", "atlas"),
        ("DICOMWEB_PASSWORD", "secret", "secret"),
        ("DICOMWEB_SEARCH_FILTER", '{"Modality": "CT", "PatientID": "7"}', {"Modality": "CT", "PatientID": "7"}),
        ("QIDO_PREFIX", "rs", "rs"),
        ("WADO_PREFIX", "wado", "wado"),
        ("STOW_PREFIX", "stow", "stow"),
        ("SESSIONS", "false", False),
        ("SESSION_PATH", "/srv/sessions", "/srv/sessions"),
        ("SESSION_EXPIRY", "60", 60),
    ],
)
def test_monai_label_reads_its_variables(name: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MONAI_LABEL_{name}", text)
    assert getattr(Settings(), f"MONAI_LABEL_{name}") == value


def test_the_pacs_gets_the_name_and_password_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", "atlas")
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    monkeypatch.setattr(opening, "settings", Settings())
    calls: list[Any] = []
    monkeypatch.setattr(opening, "DicomWeb", lambda url, session, prefixes: calls.append((url, session.auth)))
    opening.dicom_web("http://pacs.example.org/dicom-web")
    assert calls == [("http://pacs.example.org/dicom-web", ("atlas", "secret"))]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("compose.yaml", ("ORTHANC_PASSWORD", "DICOM_ADDRESS", "ATLAS_SITE", "ATLAS_TLS")),
        ("deploy/env.example", ("ORTHANC_PASSWORD", "DICOM_ADDRESS", "ATLAS_SITE", "ATLAS_TLS")),
        ("deploy/Caddyfile", ("ATLAS_SITE", "ATLAS_TLS", "ATLAS_UPSTREAM")),
        ("apps/orthanc.sh", ("ORTHANC_USER", "ORTHANC_PASSWORD", "ORTHANC_HTTP_PORT", "ORTHANC_DICOM_PORT")),
        ("Makefile", ("PYTHON", "STUDIES", "ATLAS", "CHECKPOINT", "HOST", "PORT", "ORTHANC_DATA")),
    ],
)
def test_scripts_read_the_same_variables(file: str, names: tuple[str, ...]) -> None:
    text = (CHECKOUT / file).read_text(encoding="utf-8")
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
