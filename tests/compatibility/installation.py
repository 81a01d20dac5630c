"""Runs an installation to make a generation: a checkout with edited settings, its command line, its server, its users."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

PARTS = ("lib", "apps", "configs", "weights")
EDITED: dict[str, dict[str, str]] = {
    "registration.yaml": {"spacing": "8.0", "adam_steps": "30"},
    "fusion.yaml": {"references": "10", "rounds": "1", "smoothing": "1.5"},
    "confidence.yaml": {"bias": "-4.0"},
    "server.yaml": {
        "queue": "4",
        "label_mb": "50",
        "reader_seconds": "90",
        "roots": "[/data/cts]",
        "origins": "[https://viewer.example.org]",
        "hosts": "[annotate.example.org]",
    },
    "weights.yaml": {"MedSAM2_latest.pt": "https://mirror.example.org/MedSAM2_latest.pt"},
}
"""Settings that users have changed: new values by file and key."""
PEOPLE = {"kim": "annotator", "lee": "reviewer", "max": "admin"}


def token_of(name: str) -> str:
    """Returns the token of a person."""
    return f"token-of-{name}-".ljust(43, "x")


def renew_tokens(file: Path) -> Path:
    """Writes new tokens into a file and restricts its mode, as users of earlier versions are asked to do.

    Those versions accepted tokens of less than 32 characters, and files that everybody on the machine could read.
    """
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    people = [{"name": entry["name"], "role": entry["role"], "token": token_of(entry["name"])} for entry in entries]
    file.write_text(yaml.safe_dump(people), encoding="utf-8")
    file.chmod(0o640)
    return file


@dataclass(frozen=True)
class Installation:
    """A copy of a checkout with edited settings.

    Attributes:
        folder: folder of the copy.
        home: folder of the users' files.
    """

    folder: Path
    home: Path

    @classmethod
    def make(cls, checkout: Path, folder: Path, home: Path) -> Installation:
        """Copies a checkout and edits its settings as users do."""
        for part in PARTS:
            shutil.copytree(checkout / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name, values in EDITED.items():
            edit(folder / "configs" / name, values)
        organs = folder / "configs" / "labels.yaml"
        organs.write_text(
            organs.read_text().replace("threshold: 0.2", "threshold: 0.25").replace("[221, 130, 101]", "[9, 9, 9]")
        )
        home.mkdir()
        return cls(folder, home)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the users' shells."""
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        return os.environ | {
            "PYTHONPATH": str(self.folder / "lib"),
            "MEDSAM2_ATLAS_MODELS": str(self.home / "models"),
            "MONAI_LABEL_SESSION_PATH": str(self.home / "sessions"),
            "TMPDIR": str(scratch),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }

    def run(self, *command: str | Path) -> str:
        """Runs `medsam2-atlas` and returns its output; fails if the command fails."""
        line = [sys.executable, "-m", "medsam2_atlas", *map(str, command)]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def start(self, *command: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts `medsam2-atlas`; its output goes to `log`."""
        line = [sys.executable, "-m", "medsam2_atlas", *map(str, command)]
        with log.open("wb") as stream:
            return subprocess.Popen(line, env=self.environment, stdout=stream, stderr=stream)

    @contextmanager
    def server(self, studies: Path | str, *options: str | Path) -> Iterator[str]:
        """Yields the URL of a server that is ready; stops it by SIGTERM."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log, url = self.folder / f"server-{port}.log", f"http://127.0.0.1:{port}"
        process = self.start("serve", studies, "--port", str(port), "--device", "cpu", *options, log=log)
        try:
            until(lambda: process.poll() is not None or _ready(url), 180, "the server does not start")
            assert process.poll() is None, log.read_text()[-3000:]
            yield url
        except BaseException:
            print(log.read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


class Person:
    """A person who uses the server."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._session = url, requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token_of(name)}"

    def ask(self, method: str, path: str, query: dict[str, Any] | None = None, **content: Any) -> requests.Response:
        """Sends a request and returns the answer; fails if the server refuses it."""
        answer = self._session.request(method, self._url + path, params=query, timeout=300, **content)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer

    def save(self, study: str, file: Path, tag: str = "final", confirm: bool = False, **params: Any) -> dict[str, Any]:
        """Saves a label map."""
        query = {"image": study, "tag": tag} | ({"confirm": True} if confirm else {})
        with file.open("rb") as stream:
            answer = self.ask(
                "PUT", "/datastore/label", query, data={"params": json.dumps(params)}, files={"label": (file.name, stream)}
            )
        saved: dict[str, Any] = answer.json()
        return saved

    def predict(self, model: str, study: str, **options: Any) -> dict[str, Any]:
        """Runs a model on a study and returns its report."""
        query = {"image": study, "output": "json"}
        report: dict[str, Any] = self.ask("POST", f"/infer/{model}", query, data={"params": json.dumps(options)}).json()
        return report

    def train(self, model: str, **options: Any) -> None:
        """Starts a training."""
        self.ask("POST", f"/train/{model}", json=options)

    def training_ended(self) -> bool:
        """Returns whether the training has ended; raises an error if it failed."""
        status = self.ask("GET", "/train/").json()["status"]
        assert status != "ERROR"
        return bool(status in ("DONE", "STOPPED"))


def edit(file: Path, values: dict[str, str]) -> None:
    """Changes values in a YAML file and keeps its comments; changes the first of several keys of the same name."""
    text = file.read_text()
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^(\s*{re.escape(key)}:\s*)(\[[^\]]*\]|[^\s#]+)", rf"\g<1>{value}", text, count=1)
        assert count, f"{file} has no {key}"
    file.write_text(text)


def until(happened: Any, seconds: float, what: str) -> None:
    """Waits until something has happened; fails with `what` if it takes longer."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=10).ok
    except requests.ConnectionError:
        return False
