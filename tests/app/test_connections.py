"""Limits of connections: half-open requests, slow bodies and unread answers cannot block the server."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from server.connection_limits import ConnectionLimits
from server.connections import Connections
from waiting import until

HEAD = b"PUT /read HTTP/1.1\r\nHost: x\r\n"
FAST = ConnectionLimits(total=20, per_address=10, head_seconds=0.3, body_seconds=0.3, read_seconds=0.4)
PATIENT = ConnectionLimits(total=20, per_address=10)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers `/read` after reading the body, `/wait` after a second, and `/large` with a gigabyte."""
    ended = ""
    if scope["path"] == "/read":
        while (message := await receive()).get("more_body"):
            pass
        ended = message["type"]
    elif scope["path"] == "/wait":
        await asyncio.sleep(1.0)
    chunks = 1000 if scope["path"] == "/large" else 0
    length = str(chunks * 1_000_000 or len(ended)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for _ in range(chunks):
        await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": ended.encode()})


@contextmanager
def serving(limits: ConnectionLimits, http: str = "auto") -> Iterator[tuple[int, Connections]]:
    """Yields the port of a uvicorn server with limits, and its connections."""
    connections = Connections(limits)
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_level="critical")
    config.load()
    server = uvicorn.Server(config)
    connections.install(server)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, 20)
        yield server.servers[0].sockets[0].getsockname()[1], connections
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def fast() -> Iterator[tuple[int, Connections]]:
    with serving(FAST) as served:
        yield served


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[int, Connections]]:
    with serving(PATIENT) as served:
        yield served


def link(port: int, sent: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=10)
    opened.sendall(sent)
    return opened


def rest(opened: socket.socket) -> bytes:
    """Returns all bytes until the server closes the connection."""
    received = b""
    try:
        while part := opened.recv(1 << 20):
            received += part
    except ConnectionResetError:
        pass
    opened.close()
    return received


def asked(port: int, path: str = "/read") -> bytes:
    return rest(link(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))


@pytest.mark.parametrize(
    "sent", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\nabc", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_an_incomplete_request_is_closed(fast: tuple[int, Connections], sent: bytes) -> None:
    began = time.monotonic()
    answer = rest(link(fast[0], sent))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"remedy"' in answer
    assert 0.2 < time.monotonic() - began < 5
    until(lambda: len(fast[1]) == 0, 5)


def test_a_very_slow_head_or_body_is_closed(fast: tuple[int, Connections]) -> None:
    for begun in (HEAD + b"X: ", HEAD + b"Content-Length: 1000\r\n\r\n"):
        opened, count = link(fast[0], begun), 0
        with pytest.raises(OSError):
            while count < 100:
                opened.sendall(b"x")
                count += 1
                time.sleep(0.05)
        assert 3 < count < 100
        opened.close()


def test_an_incomplete_second_request_is_closed(fast: tuple[int, Connections]) -> None:
    opened = link(fast[0], b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n")
    assert opened.recv(1000).startswith(b"HTTP/1.1 200")
    opened.sendall(HEAD)
    assert b" 408 " in rest(opened)


def test_a_connection_whose_answer_nobody_reads_is_closed(fast: tuple[int, Connections]) -> None:
    opened = link(fast[0], b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: len(fast[1]) == 1, 5)
    until(lambda: len(fast[1]) == 0, 10)
    opened.close()


def test_clients_that_wait_long_or_read_slowly_get_their_answers(fast: tuple[int, Connections]) -> None:
    assert asked(fast[0], "/wait").startswith(b"HTTP/1.1 200")
    opened, began = link(fast[0], b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"), time.monotonic()
    while time.monotonic() - began < 1.0:
        assert opened.recv(1 << 20)
        time.sleep(0.05)
    opened.close()


def test_a_slow_but_steady_upload_is_accepted(fast: tuple[int, Connections]) -> None:
    opened = link(fast[0], HEAD + b"Content-Length: 4000\r\nConnection: close\r\n\r\n")
    for _ in range(8):
        time.sleep(0.1)
        opened.sendall(bytes(500))
    assert b"http.request" in rest(opened)


def test_clients_are_served_despite_many_half_open_requests(patient: tuple[int, Connections]) -> None:
    port, connections = patient
    opened = [link(port, HEAD) for _ in range(60)]
    try:
        assert len(connections) <= PATIENT.total
        for _ in range(5):
            began = time.monotonic()
            assert asked(port).startswith(b"HTTP/1.1 200")
            assert time.monotonic() - began < 2
    finally:
        for one in opened:
            one.close()
    until(lambda: len(connections) == 0, 5)


def test_a_new_connection_is_refused_if_all_others_wait_for_answers() -> None:
    with serving(ConnectionLimits(total=4)) as (port, connections):
        waiting = [link(port, b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") for _ in range(4)]
        until(lambda: len(connections) == 4, 5)
        time.sleep(0.1)  # the requests arrive
        assert rest(link(port)).startswith(b"HTTP/1.1 503 ")
        assert all(rest(one).startswith(b"HTTP/1.1 200") for one in waiting)


def test_half_open_requests_of_one_address_leave_room_for_others() -> None:
    with serving(ConnectionLimits(total=20, per_address=3)) as (port, connections):
        opened = [link(port, HEAD) for _ in range(8)]
        until(lambda: len(connections) == 3, 5)
        assert asked(port).startswith(b"HTTP/1.1 200")
        for one in opened:
            one.close()


def test_half_of_the_descriptors_are_left_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert ConnectionLimits().max_open == 128
    assert ConnectionLimits(total=100).max_open == 100


def test_all_implementations_of_uvicorn_have_the_limits() -> None:
    pytest.importorskip("httptools")
    with serving(FAST, "httptools") as (port, _):
        assert asked(port).startswith(b"HTTP/1.1 200")
        assert rest(link(port, HEAD)).startswith(b"HTTP/1.1 408 ")
