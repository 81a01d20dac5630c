"""The real MONAI Label server with this app, for as long as a test needs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monailabel.client import MONAILabelClient

_processes: dict[str, subprocess.Popen[bytes]] = {}


def process_of(client: MONAILabelClient) -> subprocess.Popen[bytes]:
    """Returns the server's process."""
    return _processes[client.get_server_url()]


@contextmanager
def server(
    studies: Path | str, work: Path, conf: dict[str, str], environment: dict[str, str] | None = None, token: str = ""
) -> Iterator[MONAILabelClient]:
    """A client of a server on a free port; its log is `work/server.log`. token: with which the client asks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "medsam2_atlas", "serve", str(studies), "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", f"{key}={value}"]
    variables = os.environ | {
        "MONAI_LABEL_SESSION_PATH": str(work / "sessions"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(work / "cache"),
        "MEDSAM2_ATLAS_STATE": str(work / "state"),
        "MEDSAM2_ATLAS_MODELS": str(work / "models"),
        **(environment or {}),
    }
    received = work / "received"
    received.mkdir(parents=True, exist_ok=True)
    with (work / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        try:
            client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(received))
            _processes[client.get_server_url()] = process
            if token:
                client.update_auth({"token_type": "Bearer", "access_token": token})
            deadline = time.monotonic() + 120
            while True:
                try:
                    client.info()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline, (work / "server.log").read_text()[-2000:]
                    time.sleep(0.5)
            yield client
        finally:
            process.terminate()
            process.wait(timeout=60)
