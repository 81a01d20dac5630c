"""No answer to any request contains an absolute path of the server, neither in its body nor in its headers."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from monailabel.config import settings

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.resource import resource
from server import paths, stow
from server.paths import PathsMiddleware, without_paths
from waiting import until

SECONDS = 300


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yields the studies folder of the settings, whose path `without_paths` replaces."""
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(tmp_path / "stüdies"))
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_CONF", {"server_root_path": "/opt/x", "atlas": str(tmp_path / "atlas")})
    paths._patterns.cache_clear()
    yield tmp_path / "stüdies"
    monkeypatch.undo()
    paths._patterns.cache_clear()


def test_paths_are_replaced_by_names_of_folders(named: Path) -> None:
    home, temp = Path.home(), tempfile.gettempdir()
    for text, shown in (
        (f"{named}/a b/ct.nii.gz: is empty.", "[studies]/a b/ct.nii.gz: is empty."),
        (f"in {named}.", "in [studies]."),
        (json.dumps({"file": f"{named}/ct.nii"}), '{"file": "[studies]/ct.nii"}'),
        (f"{named.parent}/atlas/atlas.json", "[atlas]/atlas.json"),
        (f"{named}2/x", f"[temp]/{(named.parent / 'stüdies2').relative_to(temp)}/x"),
        (f"('{home}/x/y.pt')", "('[home]/x/y.pt')"),
        (f"line\\n{home}/x", "line\\n[home]/x"),
        (f"{sys.prefix}/lib/x.py", "[python]/lib/x.py"),
        ("/etc/passwd", "[server]/passwd"),
        ("[/var/lib/dcm/1.dcm, /proc/1]", "[[server]/1.dcm, [server]/1]"),
        ("file:///mnt/nas/ct.nii", "file://[server]/ct.nii"),
        ("/usr", "[server]/usr"),
    ):
        assert without_paths(text) == shown


def test_text_without_paths_stays_unchanged(named: Path) -> None:
    for text in (
        "/datastore/label?label=x /jobs/1 /infer/unet_3d",
        "https://tmp/x and https://host.example/home/x",
        "and/or a/usr/b ../home ./tmp",
        "/homes /etcetera",
        "/opt/x/jobs/1",  # the operator has set this root path
        "3/4 of 1/2 application/json",
        "<var>x</var>",
    ):
        assert without_paths(text) == text


async def _answered(kind: str, parts: list[bytes], path: str = "/info/") -> tuple[dict[bytes, bytes], list[bytes]]:
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", length), (b"x-file", b"/etc/passwd")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": number + 1 < len(parts)})

    async def send(message: Any) -> None:
        sent.append(message)

    await PathsMiddleware(inner)({"type": "http", "method": "GET", "path": path}, None, send)  # type: ignore[arg-type]
    return dict(sent[0]["headers"]), [message["body"] for message in sent[1:]]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/html; charset=utf-8", "text/plain", "TEXT/PLAIN", "application/jsonl"]
)
def test_a_path_sent_in_two_parts_is_removed(named: Path, kind: str) -> None:
    headers, bodies = asyncio.run(_answered(kind, [b"", b'{"a": "/etc/pas', b"", b'swd"}']))
    assert b"".join(bodies) == b'{"a": "[server]/passwd"}'
    assert headers[b"content-length"] == b"24"
    assert headers[b"x-file"] == b"[server]/passwd"


def test_events_are_sent_at_once_and_files_unchanged(named: Path) -> None:
    _, bodies = asyncio.run(_answered("text/event-stream", [b"data: /etc/passwd\n\n", b": still there\n\n"]))
    assert bodies == [b"data: [server]/passwd\n\n", b": still there\n\n"]
    _, bodies = asyncio.run(_answered("application/gzip", [b"\x1f/etc/passwd", b"x"]))
    assert bodies == [b"\x1f/etc/passwd", b"x"]


def test_answers_of_a_pacs_are_neither_changed_nor_collected(named: Path) -> None:
    parts = [b'{"00081030": {"Value": ["CT /home', b'/etc/passwd"]}}']
    for path in ("/proxy/dicom/qido/studies", "/proxy/dicom/studies"):
        assert asyncio.run(_answered("application/json", parts, path))[1] == parts


def test_the_comment_on_a_refused_object_contains_no_path(named: Path) -> None:
    assert stow._comment(f"{named}/a.nii: cannot be read")["00000902"]["Value"] == ["[studies]/a.nii: cannot be read"]


class Walk:
    """Sends requests to a server and searches each answer for paths."""

    def __init__(self, url: str, folders: list[Path]) -> None:
        self.url = url
        self.needles = sorted({str(folder) for folder in folders} | {str(folder.resolve()) for folder in folders})

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Returns the answer; fails if it contains a path."""
        answer = requests.request(method, self.url + path, timeout=SECONDS, allow_redirects=False, **options)
        text = answer.content.decode("latin-1") + json.dumps(dict(answer.headers))
        found = [needle for needle in self.needles if needle in text]
        assert not found, (method, path, options, found, text[max(0, text.find(found[0]) - 300) :][:800])
        return answer


@pytest.fixture(scope="module")
def walk(url: str, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Returns a walk through the routes of a server."""
    tests = tmp_path_factory.getbasetemp()
    folders = [
        tests,
        studies,
        resource("apps/medsam2_atlas"),
        resource("configs").parent,
        Path(sys.prefix),
        Path(sys.base_prefix),
    ]
    return Walk(url, [*(folder for folder in folders if str(folder) != "/usr"), Path.home(), Path(tempfile.gettempdir())])


def test_no_answer_during_a_days_work_contains_a_path(
    walk: Walk, studies: Path, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    (studies / "broken.nii.gz").write_bytes(b"no image")
    (studies / "linked.nii.gz").symlink_to(short_files.image)
    (studies / "more.zip").write_bytes(b"PK")
    label, image = short_files.label.read_bytes(), short_files.image.read_bytes()
    for output in ("all", "json"):
        assert walk.ask("POST", "/infer/unet_3d", params={"image": "first", "output": output}).status_code == 200
    assert walk.ask("POST", "/infer/unet_3d", params={"image": "broken"}).status_code == 422
    assert walk.ask("POST", "/infer/unet_3d", files={"file": ("x.nii.gz", b"no image")}).status_code == 422
    job = walk.ask("POST", "/infer/unet_3d", params={"image": "second", "wait": False}).json()["id"]
    for answer in ("", "/events", "/result"):
        walk.ask("GET", f"/jobs/{job}{answer}")
    for content, status in ((label, 200), (b"no label map", 422)):
        files = {"label": ("x.nii.gz", content)}
        assert walk.ask("PUT", "/datastore/label", params={"image": "first"}, files=files).status_code == status
    made = walk.ask("PUT", "/session/", files={"files": ("x.nii.gz", image)}).json()
    for session in (made["session_id"], "none"):
        for method in ("GET", "DELETE"):
            walk.ask(method, f"/session/{session}")
    assert walk.ask("POST", "/activelearning/first", json={}).json()["path"] == ""
    scored = walk.ask("POST", "/scoring/organs", params={"run_sync": True}, json={"y_pred": "unet_3d"})
    assert scored.json()["studies"]["first"]
    for path in (
        "/datastore/",
        "/datastore/?output=all",
        "/datastore/?output=train",
        "/worklist/cases",
        "/worklist/summary",
        "/readyz",
        "/info/",
    ):
        assert walk.ask("GET", path).status_code == 200
    assert "[studies]" in walk.ask("GET", "/logs/", params={"lines": 100_000}).text


@pytest.mark.parametrize(
    ("status", "start"),
    [("/scoring/", "/scoring/organs"), ("/batch/infer", "/batch/infer/unet_3d"), ("/train/", "/train/unet_3d")],
)
def test_the_state_of_a_process_contains_no_path(walk: Walk, status: str, start: str) -> None:
    assert walk.ask("POST", start, json={"bundle_path": tempfile.gettempdir()}).status_code == 422
    assert walk.ask("POST", start, json={"name": "x"}).status_code == 200
    until(lambda: walk.ask("GET", status).json().get("details"), 180)
    walk.ask("DELETE", status)
    (task,) = walk.ask("GET", status, params={"all": True}).json()[-1:]
    assert task["details"]
    assert "bundle_path" not in task["request"]


def test_no_answer_of_any_route_contains_a_path(walk: Walk) -> None:
    known = {"model": "unet_3d", "image": "first", "label": "first", "tag": "unet_3d", "strategy": "first", "study": "first"}
    known |= {"method": "organs", "name": "none", "session_id": "none", "id": "nobody", "version": "1", "path": "index.html"}
    paths = walk.ask("GET", "/openapi.json").json()["paths"]
    assert {"/infer/{model}", "/datastore/label", "/worklist/cases"} <= set(paths)
    for path, methods in paths.items():
        for method, about in methods.items():
            starts = method == "post" and path.startswith(("/train", "/batch", "/scoring"))  # slow, and tested above
            for given in ({} if starts else known, dict.fromkeys(known, "nobody"), dict.fromkeys(known, "/etc/passwd")):
                walk.ask(method.upper(), **_asked(path, about, given))
    for path in ("/", "/docs", "/nowhere", "/review", "/login", "/ohif/", "/ohif/app-config.js", "/static/none", "/metrics"):
        walk.ask("GET", path)


def _asked(path: str, about: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """Returns the arguments of a request to a route that OpenAPI describes. given: values of parameters; others become `x`."""
    query = [p["name"] for p in about.get("parameters", ()) if p["in"] == "query" and p["required"]]
    body = str(about.get("requestBody", ""))
    file = ("x.nii.gz", b"no image")
    return {
        "path": re.sub(r"\{(\w+)(:path)?\}", lambda found: given.get(found[1], "x"), path),
        "params": {name: given.get(name, "x") for name in query},
        "json": {} if "json" in body else None,
        "files": {"file": file, "files": file, "label": file} if "multipart" in body else None,
    }
