"""A DICOMweb server that misbehaves on request: it hangs, refuses, or sends invalid answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

BOUNDARY = "fake-pacs"


@dataclass
class FakePacs:
    """The content and behaviour of a PACS.

    Attributes:
        url: its DICOMweb URL.
        hangs: whether it leaves all requests unanswered until `released` is set.
        hangs_at: end of the paths of requests that it leaves unanswered; empty for none.
        list_status: HTTP status of its answers to requests for the list of series.
        series: the series that it lists, in DICOM JSON.
        page: max number of series in an answer, whatever is asked for; 0: it ignores `limit` and `offset`.
        objects: the objects of each series, by series UID.
        stored: the bodies that clients have stored.
        store_status: HTTP status of its answers to STOW requests.
        store_answer: body of its answers to STOW requests.
        asked: paths of all requests.
        syntaxes: `sends`: sends every object unchanged; `strict`: refuses to convert to the requested transfer syntax; `old`:
            refuses requests that name a transfer syntax.
        released: event that ends the hanging.
    """

    url: str = ""
    hangs: bool = False
    hangs_at: str = ""
    list_status: int = 200
    series: list[Any] = field(default_factory=list)
    page: int = 0
    objects: dict[str, list[bytes]] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)
    store_status: int = 200
    store_answer: bytes = b""
    asked: list[str] = field(default_factory=list)
    syntaxes: str = "sends"
    released: threading.Event = field(default_factory=threading.Event)

    def add(self, files: list[Path], series: str = "", study: str = "") -> str:
        """Adds a series and returns its UID. `series` and `study` replace the UIDs in the files."""
        first = pydicom.dcmread(files[0], stop_before_pixels=True)
        uid = series or str(first.SeriesInstanceUID)
        self.series.append(listed(uid, study or str(first.StudyInstanceUID)))
        self.objects[uid] = [file.read_bytes() for file in files]
        return uid


def listed(series: Any, study: Any = "1.2.3") -> dict[str, Any]:
    """Returns a series in QIDO's format."""
    values = {"0020000D": ("UI", study), "0020000E": ("UI", series), "00080060": ("CS", "CT"), "0008103E": ("LO", "abdomen")}
    return {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in values.items()}


def _uid(part: bytes) -> str:
    return str(pydicom.dcmread(BytesIO(part), stop_before_pixels=True).SOPInstanceUID)


def _instances(parts: list[bytes]) -> list[dict[str, Any]]:
    """Returns the instances of a series in QIDO's format."""
    headers = [pydicom.dcmread(BytesIO(part), stop_before_pixels=True) for part in parts]
    values = [{"00080018": ("UI", str(one.SOPInstanceUID)), "00200013": ("IS", int(one.InstanceNumber))} for one in headers]
    return [{tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in one.items()} for one in values]


def _page(pacs: FakePacs, path: str) -> list[Any]:
    """Returns the part of the list that a request asks for."""
    query = dict(parse_qsl(urlsplit(path).query))
    first = int(query.get("offset", 0))
    return pacs.series[first:][: min(pacs.page, int(query.get("limit", pacs.page)))] if pacs.page else pacs.series


def _sent(pacs: FakePacs, series: str, accept: str) -> bool:
    """Returns whether the PACS sends a series for an `Accept` header. By default it sends Explicit VR Little Endian."""
    if pacs.syntaxes == "sends":
        return True
    named = [part.partition("=")[2].strip(' "') for part in accept.split(";") if part.strip().startswith("transfer-syntax=")]
    if pacs.syntaxes == "old":
        return not named
    asked = {*named} or {ExplicitVRLittleEndian}
    kept = {
        str(pydicom.dcmread(BytesIO(part), stop_before_pixels=True).file_meta.TransferSyntaxUID)
        for part in pacs.objects[series]
    }
    return "*" in asked or kept <= asked


def multipart(parts: list[bytes], end: bool = True) -> bytes:
    """Returns a multipart message; without its end if `end` is False."""
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"\r\n".join(head + part for part in parts)
    return body + (f"\r\n--{BOUNDARY}--\r\n".encode() if end else b"")


def stow(url: str, body: Any, **options: Any) -> Any:
    """Stores a multipart message through the server."""
    import requests

    kind = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}
    return requests.post(f"{url}/proxy/dicom/wado/studies", body, headers=kind, timeout=60, **options)


@contextmanager
def fake_pacs() -> Iterator[FakePacs]:
    """Yields a running PACS on a free port of this machine."""
    pacs = FakePacs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            pacs.asked.append(self.path)
            if pacs.hangs or (pacs.hangs_at and self.path.endswith(pacs.hangs_at)):
                pacs.released.wait(120)
                return
            path = self.path.partition("?")[0].split("/")
            if path[-1] == "series":
                self._answer(pacs.list_status, json.dumps(_page(pacs, self.path)).encode(), "application/dicom+json")
            elif path[-1] == "instances" and path[-2] in pacs.objects:
                self._answer(200, json.dumps(_instances(pacs.objects[path[-2]])).encode(), "application/dicom+json")
            elif path[-2] == "instances" and path[-3] in pacs.objects:
                found = [part for part in pacs.objects[path[-3]] if _uid(part) == path[-1]]
                self._answer(200, multipart(found), f'multipart/related; type="application/dicom"; boundary={BOUNDARY}')
            elif path[-2] == "series" and path[-1] in pacs.objects and not _sent(pacs, path[-1], self.headers["Accept"] or ""):
                self._answer(400 if pacs.syntaxes == "old" else 406, b"not acceptable", "text/plain")
            elif path[-2] == "series" and path[-1] in pacs.objects:
                body = multipart(pacs.objects[path[-1]])
                self._answer(200, body, f'multipart/related; type="application/dicom"; boundary={BOUNDARY}')
            else:
                self._answer(404, b"not found", "text/plain")

        def do_POST(self) -> None:
            pacs.asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if pacs.hangs:
                pacs.released.wait(120)
                return
            if pacs.store_status == 200:
                pacs.stored.append(body)
            self._answer(pacs.store_status, pacs.store_answer, "application/dicom+json")

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as http:
        pacs.url = f"http://127.0.0.1:{http.server_address[1]}/dicom-web"
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield pacs
        finally:
            pacs.released.set()
            http.shutdown()
