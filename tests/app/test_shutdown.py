"""A server ends in bounded time after a signal, whatever its clients and jobs do, and loses no data."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from app.running import process_of, server
from medsam2_atlas.base.resource import resource
from waiting import until

STUCK_SERVER = """
import sys, time, threading, uvicorn
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request
from starlette.middleware import Middleware
from medsam2_atlas.base.jobs import JobQueue
from server import errors, infer
from server.context import begin
from server.middleware import RequestMiddleware
from server.stopping import Stopping, bounded

queue, stopping = JobQueue(4), Stopping()
stopping.on_signal(lambda: queue.stop(3))

@asynccontextmanager
async def lifespan(app):
    stopping.install()
    yield
    bounded(lambda: queue.stop(3), 3)

app = FastAPI(lifespan=lifespan, middleware=[Middleware(RequestMiddleware, served=lambda *_: None, stopping=stopping)])
app.state.queue = queue
errors.install(app)

@app.get("/job")
async def job(request: Request):
    return await infer.outcome(request, queue.submit("stuck", "study", lambda: time.sleep(600)))

@app.get("/stuck")
def stuck():
    time.sleep(600)

@app.get("/hold")
def hold():
    import ctypes
    ctypes.PyDLL(None).sleep(600)  # unlike CDLL, PyDLL holds the interpreter

@app.get("/endless")
def endless():
    from fastapi.responses import StreamingResponse
    def block():
        while True:
            yield b"x" * 1000000
    return StreamingResponse(block())

@app.get("/healthz")
async def healthz():
    return {}

uvicorn.run(app, port=int(sys.argv[1]), log_level="info")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Client(threading.Thread):
    """A client that waits for an answer."""

    def __init__(self, ask: Any) -> None:
        super().__init__(daemon=True)
        self.ask, self.answer = ask, None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.ask()
        except (OSError, requests.RequestException) as error:
            self.answer = error


def stuck_server(tmp_path: Path, port: int) -> subprocess.Popen[bytes]:
    (tmp_path / "stuck.py").write_text(STUCK_SERVER)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "stuck.py"), str(port)],
            stdout=log,
            stderr=log,
            env={"PYTHONPATH": str(resource("apps/medsam2_atlas")), "PATH": "/usr/bin:/bin"},
        )

    def lives() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1).ok
        except OSError:
            return False

    until(lives, 60)
    return process


def ask_slowly(port: int, path: str) -> socket.socket:
    """Returns a connection whose client sends a request and never reads the answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return connection


def test_the_server_ends_despite_endless_code_and_clients_that_never_read(tmp_path: Path) -> None:
    port = free_port()
    process = stuck_server(tmp_path, port)
    try:
        url = f"http://127.0.0.1:{port}"
        waiting = [Client(lambda: requests.get(f"{url}/job", timeout=60)) for _ in range(2)]
        stuck = Client(lambda: requests.get(f"{url}/stuck", timeout=60))
        unread = ask_slowly(port, "/endless")
        time.sleep(1.0)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for client in waiting:
            client.join(5)
            assert client.answer.status_code == 503
            assert int(client.answer.headers["Retry-After"]) > 0
        assert time.monotonic() - began < 3
        assert process.wait(timeout=20) == -signal.SIGTERM
        stuck.join(5)
        assert stuck.answer.status_code == 503
        unread.close()
    finally:
        process.kill()
        process.wait()


def test_the_server_ends_despite_native_code_that_holds_the_interpreter(tmp_path: Path) -> None:
    port = free_port()
    process = stuck_server(tmp_path, port)
    try:
        Client(lambda: requests.get(f"http://127.0.0.1:{port}/hold", timeout=60))
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_the_server_too(tmp_path: Path) -> None:
    port = free_port()
    process = stuck_server(tmp_path, port)
    try:
        stuck = Client(lambda: requests.get(f"http://127.0.0.1:{port}/stuck", timeout=60))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 128 + signal.SIGINT)
        stuck.join(5)
        assert stuck.answer.status_code == 503
    finally:
        process.kill()
        process.wait()


def test_the_server_ends_despite_a_job_and_open_clients(
    atlas_folder: Path, studies: Path, tmp_path: Path, target_files: Any
) -> None:
    conf = {"atlas": str(atlas_folder), "learning": "false"}
    with server(studies, tmp_path, conf, anew=True) as client:
        url = client.get_server_url().rstrip("/")
        process = process_of(client)
        label = {"label": target_files.label.open("rb")}
        assert requests.put(f"{url}/datastore/label", params={"image": "first", "tag": "final"}, files=label).ok
        options = {"params": json.dumps({"strategy": "D"})}
        waiting = Client(lambda: requests.post(f"{url}/infer/medsam2_atlas", options, params={"image": "first"}, timeout=120))
        until(lambda: any(job["state"] == "running" for job in requests.get(f"{url}/jobs").json()), 60)
        name = requests.get(f"{url}/jobs").json()[-1]["id"]
        events = Client(lambda: requests.get(f"{url}/jobs/{name}/events", timeout=60).text)
        idle = requests.Session()
        idle.get(f"{url}/healthz")
        upload = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        upload.settimeout(30)
        upload.sendall(
            b"PUT /datastore/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        time.sleep(1.0)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        waiting.join(10)
        assert waiting.answer.status_code == 503, waiting.answer
        assert waiting.answer.json()["error"]["kind"] == "StoppingError"
        assert upload.recv(1000).startswith(b"HTTP/1.1 503")
        assert process.wait(timeout=20) == -signal.SIGTERM
        assert time.monotonic() - began < 20
        events.join(5)
        assert "event: job" in events.answer
    assert (studies / "labels/final/first.nii.gz").read_bytes() == target_files.label.read_bytes()


@pytest.fixture(scope="module")
def studies(target_files: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    (folder / "first.nii.gz").write_bytes(target_files.image.read_bytes())
    return folder
