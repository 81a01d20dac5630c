"""Runs the real MONAI Label server with this app for tests."""

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

from app.preloaded import Forked, fork_server

_processes: dict[str, subprocess.Popen[bytes] | Forked] = {}


def process_of(client: MONAILabelClient | str) -> subprocess.Popen[bytes] | Forked:
    """Returns the process of a server, given its client or its URL."""
    return _processes[(client if isinstance(client, str) else str(client.get_server_url())).rstrip("/")]


@contextmanager
def server(
    studies: Path | str,
    work: Path,
    conf: dict[str, str],
    environment: dict[str, str] | None = None,
    token: str = "",
    anew: bool = False,
) -> Iterator[MONAILabelClient]:
    """Yields a client of a server on a free port; its log is `work/server.log`.

    Args:
        studies: folder of CTs, or a PACS' URL.
        work: folder for everything that the server stores outside of the studies folder.
        conf: `--conf` settings.
        environment: variables in addition to the tests' own.
        token: token of the client.
        anew: whether to start a new Python process, as users do; by default, forks from a process with loaded libraries.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["serve", str(studies), "--port", str(port)]
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
    log = work / "server.log"
    if anew:
        with log.open("w") as stream:
            line = [sys.executable, "-m", "medsam2_atlas", *command]
            process: subprocess.Popen[bytes] | Forked = subprocess.Popen(line, stdout=stream, stderr=stream, env=variables)
    else:
        process = fork_server(command, variables, log)
    try:
        client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(received))
        _processes[f"http://127.0.0.1:{port}"] = process
        if token:
            client.update_auth({"token_type": "Bearer", "access_token": token})
        deadline = time.monotonic() + 120
        while True:
            try:
                client.info()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(timeout=60)
