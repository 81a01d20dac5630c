"""What `medsam2-atlas serve` prints: in a terminal the address to open, and elsewhere the log as well."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from cli.test_port import free_port
from medsam2_atlas.cli.serve import _addresses
from server.announcement import announcement
from server.config import ServerConfig
from waiting import until

ADDRESS = "http://127.0.0.1:8000"


def lines(**settings: object) -> list[str]:
    return announcement([ADDRESS], ServerConfig.model_validate(settings), [], Path("app.log"))


def test_the_address_to_open_is_printed_with_the_root_path() -> None:
    assert lines() == [f"Open {ADDRESS}/ in a browser. Ctrl+C ends the server.", "Log: app.log"]
    assert lines(root_path="/medsam2")[0].startswith(f"Open {ADDRESS}/medsam2/ in")


def test_people_are_told_how_to_log_in() -> None:
    assert "medsam2-atlas tokens add" in lines(tokens="tokens.yaml")[1]
    assert "a token of https://login.example.org" in lines(oidc_issuer="https://login.example.org")[1]


def test_models_that_cannot_run_are_named() -> None:
    (_, line, _) = announcement([ADDRESS], ServerConfig(), {"unet_2d": "…", "atlas": "…"}, Path("app.log"))
    assert line.startswith("Cannot run yet: atlas, unet_2d. ")


def test_a_server_on_all_networks_prints_the_name_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "annotate")
    assert _addresses("0.0.0.0", 80) == ["http://127.0.0.1:80", "http://annotate:80"]
    assert _addresses("annotate.example.org", 80) == ["http://annotate.example.org:80"]


@contextmanager
def served(tmp_path: Path, port: int, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], bytearray]]:
    """Yields a server that was started in a terminal, and what the terminal shows so far. Ctrl+C ends it."""
    studies = tmp_path / "studies"
    studies.mkdir(mode=0o700)
    ours, theirs = os.openpty()
    variables = os.environ | {"MEDSAM2_ATLAS_STATE": str(tmp_path / "state"), "COLUMNS": "200"} | variables
    variables |= {name: str(tmp_path / name) for name in ("MEDSAM2_ATLAS_MODELS", "MONAI_LABEL_SESSION_PATH")}
    command = [sys.executable, "-m", "medsam2_atlas", "serve", str(studies), "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True)
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 1000)
            except OSError:  # the process has ended
                return
            if not piece:
                return
            shown.extend(piece)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        yield process, shown
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)
        reading.join(10)
        os.close(ours)


def test_a_terminal_shows_only_the_address_and_the_file_has_the_whole_log(tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, port) as (process, shown):
        until(lambda: b"app.log" in shown or process.poll() is not None, 120)
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=30).ok  # the address is printed when it can be opened
    printed = shown.decode().splitlines()
    assert printed[0] == "The server starts …"
    assert printed[1].startswith(f"Open http://127.0.0.1:{port}/ in a browser.")
    assert len(printed) == 4, printed
    log = (tmp_path / "state" / f"server-{port}" / "logs" / "app.log").read_text()
    for text in ("USING::", "Initializing App", "cannot run", "Uvicorn running", "Shutting down"):
        assert (text in log) == (text != "USING::"), log


def test_an_address_that_another_program_has_taken_meanwhile_is_not_printed(tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, port) as (process, shown):
        until(lambda: b"The server starts" in shown or process.poll() is not None, 120)  # the port was checked
        with socket.create_server(("127.0.0.1", port)):
            process.wait(120)
    assert process.returncode != 0
    assert b"address already in use" in shown
    assert b"Open http" not in shown
