"""Tests compose.yaml, the Dockerfiles, and the command that pins their base images, without an engine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from e2e.dockerfile import ROOT, Dockerfile

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = {file.name: Dockerfile.of(file) for file in sorted((ROOT / "deploy").glob("*.Dockerfile"))}
DIGESTS = {name: f"sha256:{str(n) * 64}" for n, name in enumerate(["python", "debian", "caddy"], 1)}
ENGINE = """#!/bin/sh
for image in "$@"; do :; done
case "$1 $image" in
    "info "*) exit "${DEAD:-0}" ;;
    "pull $MISSING"*) echo "manifest unknown" >&2; exit 1 ;;
    "pull caddy:"*) echo "Digest: sha256:DIGEST3" ;;
    "pull "*) echo "an id" ;;
    *python:*) echo "mirror/other@sha256:DIGEST3"; echo "docker.io/library/python@sha256:DIGEST1" ;;
    *debian:*) echo "debian@sha256:DIGEST2" ;;
esac
"""


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_change_its_programs_gain_rights_or_fill_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", ())) <= ({"NET_BIND_SERVICE"} if name == "proxy" else set())
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] and 0 < service["pids_limit"] < 10_000
    assert {entry.partition(":")[0] for entry in service["tmpfs"]} >= {"/tmp"}
    assert all("size=" in entry for entry in service["tmpfs"])  # without a size it may fill half of the memory
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert service["ulimits"]["core"] == 0
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "userns_mode"} & set(service)
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        assert source in COMPOSE["volumes"] or rest.endswith(":ro"), "a folder of the machine that the container may write"
        assert "docker.sock" not in volume


def test_services_start_after_the_services_they_need_are_healthy() -> None:
    needs = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    assert {name: list(needed) for name, needed in needs.items()} == {"orthanc": [], "app": ["orthanc"], "proxy": ["app"]}
    assert {about["condition"] for needed in needs.values() for about in needed.values()} == {"service_healthy"}


def test_the_proxy_cannot_reach_orthanc_and_the_app_cannot_reach_out() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert not networks["proxy"] & networks["orthanc"]
    assert all(COMPOSE["networks"][name]["internal"] for name in networks["app"])
    for name, service in SERVICES.items():
        assert not service.get("ports") or any(not COMPOSE["networks"][net] for net in networks[name]), "no port is published"


def test_client_addresses_are_accepted_from_the_proxys_network_only() -> None:
    from uvicorn.middleware.proxy_headers import _TrustedHosts

    trusted = SERVICES["app"]["environment"]["FORWARDED_ALLOW_IPS"]
    (only,) = COMPOSE["networks"]["web"]["ipam"]["config"]
    assert trusted == only["subnet"]
    assert "172.30.87.3" in _TrustedHosts(trusted)
    assert "172.30.87.9" not in _TrustedHosts(trusted)
    assert [name for name, service in SERVICES.items() if "web" in service["networks"]] == ["app", "proxy"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_a_fixed_user_and_write_below_their_volume_only(name: str) -> None:
    image = DOCKERFILES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user), "not a user by number, or root"
    (volume,) = image.volumes
    for variable, value in image.environment.items():
        assert not value.startswith("/") or Path(value).is_relative_to(volume), variable
    assert image.healthcheck and image.labels["org.opencontainers.image.licenses"]
    text = (ROOT / "deploy" / name).read_text()
    assert not re.search(r"(?i)(password|secret|token)\s*=", text)
    assert not re.search(r"^ADD |curl |wget |chmod .*777", text, re.MULTILINE)


def test_the_app_runs_as_its_images_user_and_the_group_of_the_tokens() -> None:
    user, _ = DOCKERFILES["app.Dockerfile"].user.split(":")
    assert SERVICES["app"]["user"] == user + ":${ATLAS_GID:-1000}"


def test_copied_paths_exist_and_reach_the_build() -> None:
    sent = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert sent[0] == "*"
    for image in DOCKERFILES.values():
        for source, _ in image.copies:
            assert (ROOT / source).exists()
            assert f"!{Path(source).parts[0]}" in sent
    for secret in (".git", ".venv", ".env", "sample-data", "tests", "demo-output"):
        assert f"!{secret}" not in sent
    assert sent.index("deploy/tokens.yaml") > sent.index("!deploy")


def test_compose_refers_only_to_existing_files_and_settings() -> None:
    assert set(SERVICES) == {"orthanc", "app", "proxy"}
    for service in SERVICES.values():
        assert "build" not in service or (ROOT / service["build"]["dockerfile"]).name in DOCKERFILES
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == ["${DICOM_ADDRESS:-127.0.0.1}:4242:4242", "443:443"]  # neither the app nor Orthanc's own pages
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    listed = set(re.findall(r"^(\w+)=", (ROOT / "deploy" / "env.example").read_text(), re.MULTILINE))
    assert used == listed
    assert "--tokens=/run/secrets/tokens" in SERVICES["app"]["command"]
    assert (ROOT / "deploy" / "tokens.example.yaml").is_file()


def test_the_health_check_uses_the_apps_port(tmp_path: Path) -> None:
    image = DOCKERFILES["app.Dockerfile"]
    script = image.healthcheck.partition("CMD ")[2]
    assert yaml.safe_load(script) == SERVICES["app"]["healthcheck"]["test"][1:]
    assert {source for source, _ in image.copies} >= {"deploy/health.py"}
    assert "8000/healthz" in (ROOT / "deploy/health.py").read_text()
    dead = subprocess.run([sys.executable, "-c", (ROOT / "deploy/health.py").read_text().replace(":8000", ":1")])
    assert dead.returncode != 0


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a copy of the files; puts a fake engine on the search path."""
    for name in pinning().FILES:
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    text = ENGINE
    for number, digest in enumerate(DIGESTS.values(), 1):
        text = text.replace(f"DIGEST{number}", digest.removeprefix("sha256:"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(text)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("MISSING", "no image")
    return tmp_path / "checkout"


def pinning() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin_images", ROOT / "deploy" / "pin_images.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in pinning().FILES}


def test_base_images_are_pinned_by_digest_once_and_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pinning().main(checkout) == 0
    pinned = contents(checkout)
    assert f"image: caddy:2@{DIGESTS['caddy']}\n" in pinned["compose.yaml"]
    assert pinned["deploy/app.Dockerfile"].count(f"FROM python:3.11-slim-bookworm@{DIGESTS['python']}\n") == 1
    assert f"FROM debian:bookworm-slim@{DIGESTS['debian']}\n" in pinned["deploy/orthanc.Dockerfile"]
    assert yaml.safe_load(pinned["compose.yaml"])["services"].keys() == SERVICES.keys()
    assert Dockerfile.of(checkout / "deploy/app.Dockerfile").bases != DOCKERFILES["app.Dockerfile"].bases
    assert pinning().main(checkout) == 0
    assert contents(checkout) == pinned
    assert DIGESTS["caddy"] in capsys.readouterr().out


def test_nothing_is_changed_if_an_image_is_missing(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISSING", "python")
    assert pinning().main(checkout) == 1
    assert contents(checkout) == contents(ROOT)
    assert "python:3.11-slim-bookworm cannot be fetched: manifest unknown" in capsys.readouterr().err


def test_a_missing_engine_is_reported(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAD", "1")
    assert pinning().main(checkout) == 1
    assert "Neither Docker nor Podman runs here" in capsys.readouterr().err
    assert contents(checkout) == contents(ROOT)


def test_every_image_can_be_pinned() -> None:
    found = {match.group(2) for text in contents(ROOT).values() for match in pinning()._IMAGE.finditer(text)}
    bases = {base.partition("@")[0] for image in DOCKERFILES.values() for base in image.bases}
    assert found == bases | {service["image"].partition("@")[0] for service in SERVICES.values() if "image" in service}
