"""What `compose.yaml` puts together, without containers: Orthanc with a password, the app with a login, TLS in front."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import SimpleITK as sitk
import yaml

from app.running import server
from e2e.orthanc import free_port, orthanc, orthanc_program, send
from medsam2_atlas.atlas import ReferenceFiles
from series_files import write_series

ROOT = Path(__file__).resolve().parents[2]
TOKENS = """
- {name: kim, role: annotator, token: kims-long-token}
- {name: lee, role: admin, token: lees-long-token}
"""


@contextmanager
def proxy(folder: Path, upstream: str) -> Iterator[tuple[str, Path]]:
    """Caddy with the file that compose.yaml gives it: its address, and the certificate that vouches for it."""
    port, plain = free_port(), free_port()
    config = folder / "Caddyfile"
    text = (ROOT / "deploy" / "Caddyfile").read_text()
    # Ports that anybody may open, and none for plain HTTP beside them.
    config.write_text(text.replace("admin off", f"admin off\n\thttp_port {plain}\n\thttps_port {port}", 1))
    environment = os.environ | {
        "ATLAS_SITE": "localhost",
        "ATLAS_UPSTREAM": upstream,
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    root = folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with (folder / "caddy.log").open("w") as log:
        command = ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    requests.get(f"https://localhost:{port}/healthz", verify=str(root), timeout=2).raise_for_status()
                    break
                except (requests.RequestException, OSError):
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "caddy.log").read_text()[-2000:]
                    time.sleep(0.3)
            yield f"https://localhost:{port}", root
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.skipif(orthanc_program() is None or shutil.which("caddy") is None, reason="Orthanc or Caddy is not installed")
def test_through_tls_and_a_login_to_a_pacs_with_a_password(
    target_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    (tmp_path / "tokens.yaml").write_text(TOKENS)
    with orthanc(tmp_path / "orthanc", "atlas", "secret") as pacs:
        assert requests.get(f"{pacs}/studies").status_code == 401
        study, series = send(pacs, files, ("atlas", "secret"))
        conf = {"atlas": str(atlas_folder), "server_tokens": str(tmp_path / "tokens.yaml")}
        login = {"MONAI_LABEL_DICOMWEB_USERNAME": "atlas", "MONAI_LABEL_DICOMWEB_PASSWORD": "secret"}
        with server(pacs, tmp_path / "server", conf, login, "kims-long-token") as client:
            upstream = urlsplit(client.get_server_url()).netloc
            with proxy(tmp_path, upstream) as (url, certificate):
                browser = requests.Session()
                browser.verify = str(certificate)
                browser.trust_env = False  # a bundle of the environment would take the certificate's place
                assert browser.get(f"{url}/info/").status_code == 401
                entered = browser.post(f"{url}/login", data={"username": "kim", "password": "kims-long-token"})
                assert entered.url == f"{url}/ohif/"
                (cookie,) = browser.cookies
                assert cookie.secure
                assert browser.get(f"{url}/proxy/dicom/qido/studies").json()[0]["0020000D"]["Value"] == [study]
                asked = browser.post(f"{url}/infer/unet_3d", params={"image": series, "wait": "false"})
                assert asked.status_code == 202, asked.text
                seen = []
                with browser.get(f"{url}{asked.headers['Location']}/events", stream=True, timeout=120) as events:
                    for line in events.iter_lines(decode_unicode=True):
                        if line.startswith("data:"):
                            seen.append(time.monotonic())
                assert len(seen) > 2 and seen[-1] - seen[0] > 0.3  # they come as they happen, not all at the end
                done = browser.get(f"{url}{asked.headers['Location']}/result", params={"output": "json"}).json()
                assert done["label_names"]["liver"] == 6
                assert browser.delete(f"{url}/datastore", params={"id": series}).status_code in (403, 404, 405)
                assert browser.get(f"{url}/logs/").status_code == 403


def test_compose_names_only_what_is_there() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(compose["services"]) == {"orthanc", "app", "proxy"}
    for service in compose["services"].values():
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            for line in dockerfile.read_text().splitlines():
                if line.startswith("COPY "):
                    *sources, _ = line.split()[1:]
                    assert all((ROOT / source).exists() for source in sources), line
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in compose["volumes"]
    published = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert published == ["${DICOM_ADDRESS:-127.0.0.1}:4242:4242", "443:443"]  # neither the app nor Orthanc's own pages
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    offered = set(re.findall(r"^(\w+)=", (ROOT / "deploy" / "env.example").read_text(), re.MULTILINE))
    assert asked == offered
    command = compose["services"]["app"]["command"]
    assert "--tokens=/run/secrets/tokens" in command
    assert (ROOT / "deploy" / "tokens.example.yaml").is_file()
