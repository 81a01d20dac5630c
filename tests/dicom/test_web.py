"""A DICOMweb server's faulty answers (cut off, endless, slow, without preambles) are handled."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError, UnavailableError
from medsam2_atlas.dicom.multipart import MultipartLimits
from medsam2_atlas.dicom.web import DicomWeb, DicomWebLimits
from series_files import upright, write_series

KIND = 'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n'
QUICK = DicomWebLimits(
    connect=1, silence=0.3, probe=0.5, pause=1, series_pause=1, list_seconds=1.5, series_seconds=1.5, list_bytes=10_000
)
Answer = Callable[[socket.socket], None]


@contextmanager
def answering(answer: Answer, limits: DicomWebLimits = QUICK) -> Iterator[DicomWeb]:
    """Yields a client of a server that reads each request's head and then calls `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(link: socket.socket) -> None:
            with link, suppress(OSError):
                link.recv(65536)
                answer(link)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield DicomWeb(f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web", limits=limits)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def whole(body: bytes, head: str = KIND, status: str = "200 OK", length: int | None = None) -> Answer:
    text = f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    return lambda link: link.sendall(text.encode() + body)


def dripping(begin: str) -> Answer:
    def answer(link: socket.socket) -> None:
        link.sendall(begin.encode())
        for _ in range(200):
            link.sendall(b"1\r\nx\r\n" if "chunked" in begin else b"x")
            time.sleep(0.1)

    return answer


def message(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def test_objects_without_preamble_or_prefix_become_files(tmp_path: Path) -> None:
    first, *_ = write_series(tmp_path / "series", upright(np.zeros((2, 4, 4))))
    content = first.read_bytes()
    for n, sent in enumerate((content, content[128:], content[132:])):
        with answering(whole(message(sent))) as web:
            folder = tmp_path / str(n)
            folder.mkdir()
            (file,) = web.fetch_series("1.2", "1.3", folder)
            assert pydicom.dcmread(file).SOPInstanceUID == pydicom.dcmread(first).SOPInstanceUID
            assert [path.name for path in folder.iterdir()] == [file.name]


def test_an_object_outside_a_multipart_message_is_accepted(tmp_path: Path) -> None:
    with answering(whole(b"\0" * 128 + b"DICM", "Content-Type: application/dicom\r\n")) as web:
        assert len(web.fetch_series("1.2", "1.3", tmp_path)) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (whole(message(b"x" * 100)[:-30]), InputError),
        (whole(message(b"x" * 100), length=500), UnavailableError),
        (whole(b"no", status="404 Not Found"), StorageError),
        (whole(b"<html>", "Content-Type: text/html\r\n"), InputError),
        (whole(b"x", ""), InputError),
        (lambda link: link.sendall(b"garbage\r\n\r\n"), UnavailableError),
        (lambda link: None, UnavailableError),
        (whole(b"", "Location: http://127.0.0.1:9/\r\n", "302 Found"), UnavailableError),
        (whole(b"", "Location: ///\r\n", "302 Found"), StorageError),
    ],
)
def test_an_answer_without_a_series_raises_an_error_of_the_project(
    tmp_path: Path, answer: Answer, error: type[MedSAM2AtlasError]
) -> None:
    with answering(answer) as web, pytest.raises(error):
        web.fetch_series("1.2", "1.3", tmp_path)


@pytest.mark.parametrize("length", ["Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_slow_body_ends_at_the_time_limit(tmp_path: Path, length: str) -> None:
    begin = f"HTTP/1.1 200 OK\r\n{KIND}{length}\r\n"
    with answering(dripping(begin)) as web:
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            web.fetch_series("1.2", "1.3", tmp_path)
        with pytest.raises(UnavailableError):
            web.list_series({})
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("uid", ["..", "1/2", "", "1.2?x", "1..2"])
def test_an_invalid_uid_never_enters_a_url(tmp_path: Path, uid: str) -> None:
    web = DicomWeb("http://127.0.0.1:9/dicom-web")
    for study, series in ((uid, "1.2"), ("1.2", uid)):
        with pytest.raises(InputError, match="not a UID"):
            web.fetch_series(study, series, tmp_path)


@pytest.mark.parametrize("body", [b"{", b"[" * 9000, b"7", b'"x"', b"\xff"])
def test_an_invalid_list_raises_an_error_of_the_project(body: bytes) -> None:
    with answering(whole(body, "Content-Type: application/json\r\n")) as web, pytest.raises(StorageError):
        web.list_series({})


def test_a_list_that_is_too_long_is_refused() -> None:
    with answering(whole(b"[" + b" " * 20_000 + b"]", "Content-Type: application/json\r\n")) as web, pytest.raises(InputError):
        web.list_series({})


def test_the_size_limit_counts_decompressed_bytes(tmp_path: Path) -> None:
    head = KIND + "Content-Encoding: gzip\r\n"
    limits = DicomWebLimits(series=MultipartLimits(9, 10**6, 10**6))
    with answering(whole(gzip.compress(message(bytes(10**8))), head), limits) as web, pytest.raises(InputError):
        web.fetch_series("1.2", "1.3", tmp_path)


def test_a_silent_server_is_probed_and_then_not_called(tmp_path: Path) -> None:
    limits = DicomWebLimits(connect=1, silence=0.2, probe=0.3, series_pause=3)
    with answering(lambda link: time.sleep(4), limits) as web:
        thread = threading.Thread(target=lambda: fetch_in_vain(web, tmp_path))
        thread.start()
        deadline = time.monotonic() + 2.5
        while not web.breaker.open and time.monotonic() < deadline:
            time.sleep(0.05)
        assert thread.is_alive() and web.breaker.open
        with pytest.raises(UnavailableError):
            web.list_series({})
        thread.join()


def fetch_in_vain(web: DicomWeb, folder: Path) -> None:
    with suppress(StorageError):
        web.fetch_series("1.2", "1.3", folder)
