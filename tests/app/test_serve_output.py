"""What `medsam2-atlas serve` prints: in a terminal the address to open, and elsewhere the log as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

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


def test_a_terminal_shows_only_the_address_and_the_file_has_the_whole_log(tmp_path: Path) -> None:
    studies, port, state = tmp_path / "studies", free_port(), tmp_path / "state"
    studies.mkdir(mode=0o700)
    ours, theirs = os.openpty()
    variables = os.environ | {"MEDSAM2_ATLAS_STATE": str(state), "MEDSAM2_ATLAS_MODELS": str(tmp_path / "models")}
    variables |= {"MONAI_LABEL_SESSION_PATH": str(tmp_path / "sessions"), "COLUMNS": "200"}
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
        until(lambda: b"app.log" in shown or process.poll() is not None, 120)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        reading.join(10)
        os.close(ours)
    printed = shown.decode().splitlines()
    assert printed[0] == "The server starts …"
    assert printed[1].startswith(f"Open http://127.0.0.1:{port}/ in a browser.")
    assert len(printed) == 4, printed
    log = (state / f"server-{port}" / "logs" / "app.log").read_text()
    for text in ("USING::", "Initializing App", "cannot run", "Uvicorn running", "Shutting down"):
        assert (text in log) == (text != "USING::"), log
