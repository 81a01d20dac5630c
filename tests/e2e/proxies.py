"""Runs real proxies with the configurations in `deploy/` and docs/access.md."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from e2e.orthanc import free_port

ROOT = Path(__file__).resolve().parents[2]
ROOT_PATH = "/medsam2"
"""The root path in the examples of docs/access.md."""


@contextmanager
def tls_proxy(folder: Path, upstream: str) -> Iterator[tuple[str, Path]]:
    """Runs Caddy with the configuration of compose.yaml; yields its address and its root certificate."""
    port, plain = free_port(), free_port()
    text = (ROOT / "deploy" / "Caddyfile").read_text()
    # Use free ports that need no privileges.
    text = text.replace("admin off", f"admin off\n\thttp_port {plain}\n\thttps_port {port}", 1)
    environment = {"ATLAS_SITE": "localhost", "ATLAS_UPSTREAM": upstream}
    root = folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with _caddy(folder, text, environment, f"https://localhost:{port}/healthz", root):
        yield f"https://localhost:{port}", root


@contextmanager
def path_proxies(folder: Path, upstream: str) -> Iterator[list[str]]:
    """Runs Caddy with both examples of docs/access.md: one removes the root path, one passes it on. Yields both addresses."""
    ports, text = [], "{\n\tadmin off\n}\n"
    for example in examples("caddyfile"):
        ports.append(free_port())
        site = example.replace("annotate.example.org", f"http://127.0.0.1:{ports[-1]}", 1)
        text += site.replace("127.0.0.1:8000", upstream)
    urls = [f"http://127.0.0.1:{port}{ROOT_PATH}" for port in ports]
    with _caddy(folder, text, {}, f"{urls[0]}/healthz"):
        yield urls


@contextmanager
def nginx_proxy(folder: Path, upstream: str) -> Iterator[str]:
    """Runs nginx with the example of docs/access.md; yields the server's address."""
    port = free_port()
    (example,) = examples("nginx")
    kept = "\n".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{kept}\n"
        f"server {{\nlisten 127.0.0.1:{port};\n{example.replace('127.0.0.1:8000', upstream)}}}\n}}\n"
    )
    url = f"http://127.0.0.1:{port}{ROOT_PATH}"
    with _running(["nginx", "-p", str(folder), "-c", str(config)], folder / "nginx.log", {}, f"{url}/healthz", True):
        yield url


def examples(language: str) -> Sequence[str]:
    """Returns the examples in docs/access.md with a language tag."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / "access.md").read_text(), re.M | re.S)
    return found


@contextmanager
def _caddy(folder: Path, text: str, environment: dict[str, str], probe: str, verify: Path | bool = True) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Caddyfile").write_text(text)
    folders = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config")}
    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with _running(command, folder / "caddy.log", environment | folders, probe, verify):
        yield


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str], probe: str, verify: Path | bool) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | environment)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    trusted = str(verify) if isinstance(verify, Path) else verify
                    requests.get(probe, verify=trusted, timeout=2).raise_for_status()
                    break
                except (requests.RequestException, OSError):
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                    time.sleep(0.3)
            yield
        finally:
            process.terminate()
            process.wait(30)
