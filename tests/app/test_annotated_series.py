"""The viewer's routes on series of a PACS: label maps have the order of the instances, whatever plane was scanned."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from app.cases import listed
from app.fake_pacs import FakePacs, fake_pacs
from app.running import server
from dicom.series.test_order_in_viewers import as_in_viewers
from imaging.test_dicom_order import image_of
from medsam2_atlas.imaging.packed_labels import pack
from series_files import write_series

CODES = ("LPS", "LPI", "RAS", "PIR", "LIP", "ASL")  # axial from the feet and from the head, turned, sagittal, coronal
ROOT = "/annotate"


@pytest.fixture(scope="module")
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as found:
        yield found


@pytest.fixture(scope="module")
def series(pacs: FakePacs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[Path]]]:
    """Returns UID and files of an oblique series for each code."""
    found = {}
    for code in CODES:
        files = write_series(tmp_path_factory.mktemp(code), image_of(code, True))
        found[code] = (pacs.add(files), files)
    return found | {"unused": (pacs.add(write_series(tmp_path_factory.mktemp("unused"), image_of("LPS", False))), [])}


@pytest.fixture(scope="module")
def url(pacs: FakePacs, series: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the server's URL with its root path."""
    conf = {"learning": "false", "server_root_path": ROOT}
    with server(pacs.url, tmp_path_factory.mktemp("server"), conf) as client:
        yield str(client.get_server_url()).rstrip("/") + ROOT


def ask(url: str, method: str, path: str, body: bytes | None = None, **params: Any) -> requests.Response:
    return requests.request(method, f"{url}/annotation/{path}", params=params, data=body, timeout=60)


@pytest.mark.parametrize("code", CODES)
def test_a_submitted_label_map_is_at_its_voxels_in_the_pacs(
    url: str, pacs: FakePacs, series: dict[str, tuple[str, list[Path]]], code: str
) -> None:
    uid, files = series[code]
    voxels, positions = as_in_viewers(files)
    labels = np.where(voxels % 3 == 0, voxels % 15 + 1, 0).astype(np.uint8)
    sent = ask(url, "PUT", "draft", pack(labels), image=uid)
    assert sent.status_code == 204, sent.text
    before = len(pacs.stored)
    saved = ask(url, "POST", "submit", pack(labels), image=uid)
    assert saved.status_code == 201, saved.text
    assert saved.json()["pacs"]["state"] == "sent"
    loaded = ask(url, "GET", "label", image=uid, tag="final")
    assert loaded.headers["X-Shape"] == ",".join(str(count) for count in voxels.shape)
    assert gzip.decompress(loaded.content) == labels.tobytes()
    (body,) = pacs.stored[before:]
    begin = body.index(b"\r\n\r\n") + 4
    seg = pydicom.dcmread(BytesIO(body[begin : body.rindex(b"\r\n--")]))
    assert [int(item.SegmentNumber) for item in seg.SegmentSequence] == list(range(1, 16))  # the numbers of the organs
    places = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in seg.PerFrameFunctionalGroupsSequence], float)
    segments = [int(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for f in seg.PerFrameFunctionalGroupsSequence]
    found = np.zeros_like(labels)
    for place, organ, mask in zip(places, segments, seg.pixel_array, strict=True):
        found[int(np.abs(positions - place).sum(1).argmin())][mask > 0] = organ
    assert (found == labels).all()


def test_a_case_is_found_by_its_dicom_uids(url: str, series: dict[str, tuple[str, list[Path]]]) -> None:
    uid, files = series["LPS"]
    study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    found = ask(url, "GET", "case", study=study, series=uid)
    assert found.status_code == 200, found.text
    assert (found.json()["image"], found.json()["title"]) == (uid, "abdomen")
    assert found.json()["phantom"] is None
    # links name the series, because a study may contain several CTs
    following = found.json()["next"]
    assert following["viewer"].endswith(f"&SeriesInstanceUIDs={following['image']}")
    assert listed(url)[uid]["viewer"] == f"/ohif/monai-label?StudyInstanceUIDs={study}&SeriesInstanceUIDs={uid}"
    assert ask(url, "GET", "case", study="1.2.3.4", series=uid).status_code == 404
    assert ask(url, "GET", "case", study=study, series="1.2.3").status_code == 404
    assert ask(url, "GET", "case", study=study).status_code == 422


def test_a_series_that_nobody_used_is_shown_without_fetching_it(
    url: str, pacs: FakePacs, series: dict[str, tuple[str, list[Path]]]
) -> None:
    uid, _ = series["unused"]
    found = ask(url, "GET", "case", image=uid).json()
    assert (found["versions"], found["draft"], found["final"], found["image_mark"]) == ([], None, 0, "")
    assert ask(url, "DELETE", "draft", image=uid).status_code == 204
    assert not [path for path in pacs.asked if path.endswith(f"series/{uid}")]
    assert ask(url, "GET", "label", image=uid, tag="final").status_code == 404


def test_of_people_who_submit_at_the_same_time_one_is_first_and_the_others_learn_of_it(
    url: str, series: dict[str, tuple[str, list[Path]]]
) -> None:
    uid, files = series["PIR"]
    newest = ask(url, "GET", "case", image=uid).json()["start"]["version"]
    base = {"image": uid, "base_tag": "final", "base_version": newest, "confirm": "both"}
    shape = as_in_viewers(files)[0].shape

    def send(organ: int) -> requests.Response:
        return ask(url, "POST", "submit", pack(np.full(shape, organ)), **base)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(1, 7)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
    assert {answer.json()["conflict"]["version"] for answer in answers if answer.status_code == 409} == {newest + 1}
    organ = 1 + next(n for n, answer in enumerate(answers) if answer.status_code == 201)
    loaded = ask(url, "GET", "label", image=uid, tag="final")
    assert set(gzip.decompress(loaded.content)) == {organ}
