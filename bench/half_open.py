"""Measures the response time of `/healthz` while thousands of connections send part of a request and wait.

An attacker in a separate process keeps the connections open, and opens a new one for each that the server closes. The server
may open 1,024 files, as on many systems. The honest client opens a new connection for each request. Prints the times in
milliseconds for each attack: part of the head, or a head without its body, from another address or from the honest client's
address.
"""

from __future__ import annotations

import multiprocessing
import resource
import selectors
import socket
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import requests
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from medsam2_atlas.base.console import console

CONNECTIONS, SECONDS, DESCRIPTORS = 3000, float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, 1024
HEAD = b"PUT /datastore/label?image=case-0 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
KINDS = {"part of a head": HEAD, "a head without its body": HEAD + b"Content-Length: 1000000\r\n\r\n--x\r\n"}
TIMEOUT = 20.0


def attack(port: int, part: bytes, address: str, end: Event) -> None:
    """Keeps half-open connections until `end` is set."""
    selector = selectors.DefaultSelector()

    def connect() -> None:
        link = socket.socket()
        link.setblocking(False)
        link.bind((address, 0))
        link.connect_ex(("127.0.0.1", port))
        selector.register(link, selectors.EVENT_WRITE)

    for _ in range(CONNECTIONS):
        connect()
    while not end.is_set():
        for key, mask in selector.select(0.1):
            link: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                if mask & selectors.EVENT_WRITE:
                    link.send(part)
                    selector.modify(link, selectors.EVENT_READ)
                elif not link.recv(4096):
                    raise ConnectionResetError
            except OSError:
                selector.unregister(link)
                link.close()
                connect()


def measure(url: str, end: float) -> list[float]:
    """Returns the response time in seconds of each request until `end`; `TIMEOUT` for a request without a response."""
    times = []
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            requests.get(f"{url}/healthz", timeout=TIMEOUT).raise_for_status()
            times.append(time.perf_counter() - began)
        except requests.RequestException as error:
            print("no answer:", str(error)[:100])
            times.append(TIMEOUT)
        time.sleep(0.05)
    return times


def main() -> None:
    table = Table("attack", "address", "requests", "median ms", "max ms", title=f"{CONNECTIONS} half-open connections")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "studies").mkdir()
        with server(folder / "studies", folder / "work", {"learning": "false"}, anew=True) as client:
            resource.prlimit(process_of(client).pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            url = client.get_server_url().rstrip("/")
            runs = [("none", b"", ""), *((kind, part, a) for kind, part in KINDS.items() for a in ("127.0.0.2", "127.0.0.1"))]
            for kind, part, address in runs:
                end = multiprocessing.Event()
                attacker = multiprocessing.Process(target=attack, args=(int(url.rsplit(":")[-1]), part, address, end))
                if part:
                    attacker.start()
                    time.sleep(2.0)
                times = 1e3 * np.array(measure(url, time.monotonic() + SECONDS))
                end.set()
                if part:
                    attacker.join()
                    time.sleep(2.0)
                table.add_row(kind, address, str(len(times)), f"{np.median(times):.0f}", f"{times.max():.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
