"""Tests the real server with a PACS that hangs, and with viewers that store invalid objects."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
import requests
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from app.fake_pacs import BOUNDARY, FakePacs, fake_pacs, listed, multipart, stow
from app.running import process_of, server
from medsam2_atlas.dicom import LabelOrigin, write_seg
from medsam2_atlas.imaging.volume import read_volume
from series_files import compress, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))


@dataclass
class Hospital:
    """A PACS, the process of the server in front of it, and three series: annotated, never fetched, without a label map."""

    pacs: FakePacs
    server: int
    url: str
    series: str
    other: str
    third: str
    files: Path

    def image(self) -> Path:
        file = self.files.parent / "image.nii.gz"
        file.write_bytes(requests.get(f"{self.url}/datastore/image", {"image": self.series}, timeout=60).content)
        return file

    def seg(self, organ: int = 6) -> bytes:
        image = read_volume(self.image())
        array = np.zeros(image.array.shape, np.uint8)
        array[1:4, 2:9, 3:12] = organ
        stream = BytesIO()
        write_seg(image.with_array(array).restored(), self.files, LabelOrigin("x", 1)).save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    def save(self, organ: int) -> requests.Response:
        image = read_volume(self.image())
        array = np.zeros(image.array.shape, np.uint8)
        array[1:4, 2:9, 3:12] = organ
        file = self.files.parent / f"label-{organ}.nii.gz"
        sitk.WriteImage(image.with_array(array).restored(), str(file))
        with file.open("rb") as stream:
            options = {"image": self.series, "tag": "final"}
            params = {"params": '{"confirm": true}'}
            return requests.put(f"{self.url}/datastore/label", params=options, data=params, files={"label": stream}, timeout=60)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    files = write_series(folder / "series", upright(ARRAY))
    with fake_pacs() as pacs:
        series = pacs.add(files)
        other, third = (pacs.add(write_series(folder / name, upright(ARRAY))) for name in ("other", "third"))
        pacs.series.append(listed(".."))
        with server(pacs.url, folder / "server", {"learning": "false", "server_upload_mb": "5"}) as client:
            url = client.get_server_url().rstrip("/")
            assert requests.get(f"{url}/datastore/image", {"image": third}, timeout=60).ok
            yield Hospital(pacs, process_of(client).pid, url, series, other, third, folder / "series")
            pacs.released.set()


@pytest.fixture
def hanging(hospital: Hospital) -> Iterator[Hospital]:
    """Yields the hospital with the first series fetched and a hanging PACS. Afterwards the PACS answers again."""
    hospital.image()
    assert requests.get(f"{hospital.url}/info/", timeout=30).json()["datastore"]["total"] == 3
    hospital.pacs.released.clear()
    hospital.pacs.hangs = True
    yield hospital
    hospital.pacs.hangs = False
    hospital.pacs.released.set()


def test_a_viewers_object_becomes_a_label_map_through_a_reader_process(hospital: Hospital) -> None:
    answer = stow(hospital.url, multipart([hospital.seg()]))
    assert answer.status_code == 200, answer.text
    assert answer.json()["00081199"]["Value"][0]["00081150"]["Value"] == ["1.2.840.10008.5.1.4.1.1.66.4"]
    about = requests.get(f"{hospital.url}/datastore/label/info", {"label": hospital.series, "tag": "final"}, timeout=30).json()
    assert about["pacs"]["state"] == "sent"
    body = multipart([hospital.seg(7)])
    chunks = (body[n : n + 999] for n in range(0, len(body), 999))
    assert stow(hospital.url, chunks, params={"confirm": "true"}).status_code == 200  # without a length


def test_a_list_of_fields_reaches_the_pacs_with_its_commas(hospital: Hospital) -> None:
    fields = "includefield=00081030%2C00080060&fuzzymatching=false"
    assert requests.get(f"{hospital.url}/proxy/dicom/qido/series?limit=7&{fields}", timeout=30).ok
    assert hospital.pacs.asked[-1] == f"/dicom-web/series?limit=7&{fields.replace('%2C', ',')}"


def test_the_transfer_syntax_that_a_viewer_requests_is_passed_to_the_pacs(hospital: Hospital, tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY[:2]))
    for file in files:
        compress(file)
    content, path = files[0].read_bytes(), f"{hospital.url}/proxy/dicom/wado/studies/1.2.3/series/1.2.99"
    hospital.pacs.objects["1.2.99"], hospital.pacs.syntaxes = [content], "strict"
    try:
        kind = 'multipart/related; type="application/dicom"'
        asked = [requests.get(path, headers={"Accept": kind + more}, timeout=30) for more in ("", "; transfer-syntax=*")]
    finally:
        hospital.pacs.syntaxes = "sends"
        del hospital.pacs.objects["1.2.99"]
    assert [answer.status_code for answer in asked] == [406, 200]
    assert content in asked[1].content


def test_a_malformed_object_is_answered_and_does_not_end_the_server(hospital: Hospital) -> None:
    seg, random = hospital.seg(), np.random.default_rng(3)
    bodies = [b"", b"x", multipart([b""]), multipart([bytes(500)]), multipart([seg], end=False), multipart([seg])[:-200]]
    bodies += [multipart([seg[: len(seg) // 2]]), multipart([hospital.files.joinpath("000.dcm").read_bytes()])]
    bodies.append(multipart([b"x"] * 100))
    for _ in range(20):
        changed = bytearray(seg)
        for position in random.integers(140, len(seg), 4):
            changed[position] = random.integers(256)
        bodies.append(multipart([bytes(changed)]))
    statuses = [stow(hospital.url, body, params={"confirm": "true"}).status_code for body in bodies]
    assert set(statuses[:9]) == {422}
    assert set(statuses) <= {200, 409, 422}
    assert requests.get(f"{hospital.url}/healthz", timeout=5).ok


def test_a_small_deflated_object_does_not_fill_the_servers_memory(hospital: Hospital) -> None:
    ds = pydicom.dcmread(BytesIO(hospital.seg()))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = BytesIO()
    head = Dataset()
    head.SOPClassUID, head.SOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    head.file_meta, head.preamble = ds.file_meta, bytes(128)
    head.save_as(stream, enforce_file_format=True)
    meta = stream.getvalue()[: 144 + head.file_meta.FileMetaInformationGroupLength]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = meta + packer.compress(b"\x09\x00\x10\x00OB\x00\x00\xff\xff\xff\x6f")
    bomb += b"".join(packer.compress(bytes(1 << 20)) for _ in range(1000)) + packer.flush()
    process = psutil.Process(hospital.server)
    before = process.memory_info().rss
    assert stow(hospital.url, multipart([bomb])).status_code == 422
    assert process.memory_info().rss - before < 200e6


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(hospital: Hospital) -> None:
    assert stow(hospital.url, multipart([bytes(6_000_000)])).status_code == 413
    kind = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}
    body = multipart([bytes(6_000_000)])
    try:
        chunks = (body[n : n + 60_000] for n in range(0, len(body), 60_000))
        assert requests.post(f"{hospital.url}/proxy/dicom/wado/studies", chunks, headers=kind, timeout=60).status_code == 413
    except requests.ConnectionError:
        pass  # the server has closed while the client was still sending


def test_lists_survive_invalid_answers_of_the_pacs(hospital: Hospital) -> None:
    about = requests.get(f"{hospital.url}/datastore/", params={"output": "all"}, timeout=30)
    assert about.ok
    assert not requests.get(f"{hospital.url}/datastore/image", {"image": ".."}, timeout=30).ok
    assert requests.get(f"{hospital.url}/datastore/image", {"image": hospital.series}, timeout=30).ok


def test_fetched_series_stay_usable_while_the_pacs_hangs(hanging: Hospital) -> None:
    with ThreadPoolExecutor(60) as pool:
        waiting = [
            pool.submit(requests.get, f"{hanging.url}/datastore/image", {"image": hanging.other}, timeout=120)
            for _ in range(50)
        ]
        waiting += [pool.submit(requests.get, f"{hanging.url}/proxy/dicom/qido/studies", timeout=120) for _ in range(5)]
        time.sleep(1)
        slow = {}
        for path in ("info/", "healthz", "datastore/", "datastore/?output=all", "info/", "metrics"):
            began = time.monotonic()
            assert requests.get(f"{hanging.url}/{path}", timeout=30).ok
            slow[path] = time.monotonic() - began
        began = time.monotonic()
        chosen = requests.post(f"{hanging.url}/activelearning/first", json={}, timeout=30)
        assert chosen.json().get("id") in (hanging.series, hanging.third), chosen.text
        slow["activelearning"] = time.monotonic() - began
        began = time.monotonic()
        assert requests.get(f"{hanging.url}/datastore/image", {"image": hanging.series}, timeout=30).ok
        slow["image"] = time.monotonic() - began
        assert max(slow.values()) < 1.0, slow
        began = time.monotonic()
        answer = hanging.save(8)
        assert answer.status_code == 200, answer.text
        assert answer.json()["pacs"]["state"] == "pending"
        assert answer.json()["info"]["pacs"]["problem"]
        assert time.monotonic() - began < 8
        hanging.pacs.hangs = False
        hanging.pacs.released.set()
        assert {future.result().status_code for future in waiting} <= {200, 503, 502}


def test_requests_to_a_hanging_pacs_are_refused_at_once_with_the_reason(hanging: Hospital) -> None:
    deadline = time.monotonic() + 40
    while True:  # the first request waits; later ones are refused at once
        answer = requests.get(f"{hanging.url}/proxy/dicom/qido/studies", timeout=60)
        assert answer.status_code == 503 and time.monotonic() < deadline
        if answer.elapsed.total_seconds() < 1:
            break
    assert "remedy" in answer.json()["error"] and answer.json()["error"]["remedy"]
