"""Links in a PACS' answers are changed to lead through this server."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from monailabel.config import settings
from starlette.requests import Request

from medsam2_atlas.base.errors import InputError
from server import dicomweb
from server.dicomweb import _changed, with_query
from server.pacs_links import OwnLinks

PACS = "http://orthanc:8042/dicom-web"


@pytest.mark.parametrize(
    ("link", "own"),
    [
        (f"{PACS}/studies/1.2/series/3/instances/4/bulk/7fe00010", "studies/1.2/series/3/instances/4/bulk/7fe00010"),
        (f"{PACS}/studies/1.2", "studies/1.2"),
        (f"{PACS}/studies/1.2/bulkdata/x?offset=10&length=20", "studies/1.2/bulkdata/x?offset=10&length=20"),
        ("http://orthanc:8042/other/studies/1.2", "studies/1.2"),
        ("https://pacs.hospital.example/dicom-web/studies/1.2", "studies/1.2"),
    ],
)
def test_links_to_the_pacs_become_paths_of_this_server(link: str, own: str) -> None:
    for root in ("", "/medsam2"):
        assert OwnLinks([PACS], root).own(link) == f"{root}/proxy/dicom/wado/{own}"


@pytest.mark.parametrize(
    "link",
    [
        *("instances/4/bulk/1", "../bulk/1", "/studies/1.2", "", "https://elsewhere.example/archive/studies/1.2"),
        *(f"{PACS}/system", f"{PACS}/studies/../../system", f"{PACS}/studies/%2e%2e/x", f"{PACS}/studies/a b"),
        *("ftp://orthanc:8042/dicom-web/studies/1.2", "http://[orthanc/studies/1", "javascript:alert(1)//dicom-web/studies/1"),
    ],
)
def test_other_links_stay_unchanged(link: str) -> None:
    assert OwnLinks([PACS], "/medsam2").own(link) == link


def test_only_lists_and_metadata_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", PACS)

    def changed(content: Any, instances: bool = False) -> Any:
        return json.loads(_changed(json.dumps(content).encode(), instances, "/medsam2"))

    bulk = {"vr": "OW", "BulkDataURI": f"{PACS}/studies/1/bulk/2"}
    nested = {"vr": "SQ", "Value": [{"00091002": bulk}]}
    retrieve = {"vr": "UR", "Value": [f"{PACS}/studies/1", 3, None]}
    found = changed([{"00081190": retrieve, "00091001": nested, "00100010": {"vr": "PN", "Value": [{"Alphabetic": "x"}]}}])
    assert found[0]["00081190"]["Value"] == ["/medsam2/proxy/dicom/wado/studies/1", 3, None]
    assert found[0]["00091001"]["Value"][0]["00091002"]["BulkDataURI"] == "/medsam2/proxy/dicom/wado/studies/1/bulk/2"
    assert found[0]["00100010"]["Value"] == [{"Alphabetic": "x"}]
    for odd in ([], {}, "x", [{"00081190": "x"}], [{"00081190": {"Value": "x"}}], {"BulkDataURI": 3}, [[None]]):
        assert changed(odd) == odd
        assert changed(odd, instances=True) == odd
    for content in (b'{"BulkDataURI"', b'["00081190"' + b"[" * 100_000, b"\xff"):
        assert _changed(content, False, "") == content
    plain = b'[ {"00100020": {"vr": "LO"}} ]'
    assert _changed(plain, False, "") is plain


@pytest.mark.parametrize(
    ("query", "passed"),
    [
        (b"", ""),
        (b"includefield=00081030%2C00080060", "?includefield=00081030,00080060"),
        (b"includefield=00081030,00080060", "?includefield=00081030,00080060"),
        (b"StudyDate=20260101%2D20260131", "?StudyDate=20260101-20260131"),
        (b"PatientName=%2AM%C3%BCller%5EA%2A", "?PatientName=*M%C3%BCller%5EA*"),
        (b"a=%26b%3D1%2Bc%23d%25e%3Bf&flag", "?a=%26b%3D1%2Bc%23d%25e%3Bf&flag"),
        (b"a=b+c%20d&a=%0D%0AHost%3A", "?a=b+c%20d&a=%0D%0AHost:"),
        (b"a=%zz%2", "?a=%zz%2"),
    ],
)
def test_a_query_reaches_the_pacs_without_escapes_that_it_does_not_need(query: bytes, passed: str) -> None:
    assert with_query("http://pacs/studies", query) == f"http://pacs/studies{passed}"


@pytest.mark.parametrize("query", [b"PatientName=\x7f", b"PatientName=" + b"x" * 70_000])
def test_a_query_that_no_request_to_the_pacs_can_contain_is_refused(query: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", PACS)
    monkeypatch.setattr(dicomweb, "app_instance", lambda: SimpleNamespace(datastore=lambda: None))
    app = SimpleNamespace(state=SimpleNamespace(dicomweb=httpx.AsyncClient()))
    request = Request({"type": "http", "method": "GET", "headers": [], "query_string": query, "app": app})
    with pytest.raises(InputError, match=r"cannot be sent to the PACS .*Correct the query"):
        asyncio.run(dicomweb.look_up(request, "qido/studies"))
