"""Jobs, sessions and records have owners: other annotators can neither see, use, remove nor change them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from starlette.testclient import TestClient

from datastores.client_info import MAX_BYTES
from datastores.session_folders import SessionFolders
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.jobs import JobQueue
from medsam2_atlas.imaging.thumbnail import empty_picture
from server import sessions, studies
from server.application import create_app
from server.config import ServerConfig
from server.people import User
from server.person_limits import PersonLimitMiddleware
from storage.test_store import ct, label
from tasks.case_pictures import Wanted
from token_files import bearer, token_of, tokens_for

PEOPLE = {"kim": "annotator", "ann": "annotator", "lee": "reviewer", "max": "admin"}
NAN = '{"a": NaN}'


class Server:
    """A server with a studies folder, in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.image = ct(folder / "studies", "a")
        ct(folder / "studies", "b")
        self.datastore = StudyDatastore(folder / "studies", ["unet_3d"])
        self.sessions = SessionFolders(str(folder / "sessions"))
        self.label = label(folder / "label.nii.gz", 6)
        instance = Instance(self.datastore, self.sessions)
        for module in (studies, sessions):
            monkeypatch.setattr(module, "app_instance", lambda: instance)
        monkeypatch.setattr("monailabel.endpoints.datastore.app_instance", lambda: instance)
        tokens = tokens_for(folder / "tokens.yaml", PEOPLE)
        self.app = create_app(ServerConfig(tokens=str(tokens), sessions_per_person=2))
        self.queue: JobQueue = self.app.state.queue
        self.client = TestClient(self.app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    def ask(self, who: str, method: str, path: str, **options: Any) -> Any:
        return self.client.request(method, path, headers=bearer(token_of(who)), **options)

    def save(self, who: str, tag: str = "final", **params: Any) -> Any:
        with self.label.open("rb") as stream:
            query = {"image": "a", "tag": tag}
            data = {"params": json.dumps(params)}
            return self.ask(who, "PUT", "/datastore/label", params=query, data=data, files={"label": ("l.nii.gz", stream)})

    def describe(self, who: str, info: str, tag: str = "final") -> int:
        """Returns the HTTP status of a change of a label map's info."""
        query = {"label": "a", "tag": tag}
        status: int = self.ask(who, "PUT", "/datastore/label/info", params=query, data={"info": info}).status_code
        return status

    def session(self, who: str) -> Any:
        return self.ask(who, "PUT", "/session/", files={"files": ("ct.nii.gz", self.image.read_bytes())})


class Instance:
    """The part of MONAI Label's app that the routes use."""

    def __init__(self, datastore: StudyDatastore, folders: SessionFolders) -> None:
        self.datastore, self.sessions = lambda: datastore, lambda: folders

    def on_save_label(self, *_: str) -> dict[str, Any]:
        return {}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path, monkeypatch)
    yield made
    made.queue.stop(1)


def test_annotators_cannot_see_or_cancel_other_peoples_jobs(server: Server) -> None:
    gate = threading.Event()
    job = server.queue.submit("m", "a", gate.wait, owner="token:kim", person="kim")
    own = server.queue.submit("m", "b", lambda: None, owner="token:ann", person="ann")
    assert re.fullmatch(r"[\w-]{22}", job.id)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/result")):
        refused = server.ask("ann", method, f"/jobs/{job.id}{path}")
        unknown = server.ask("ann", method, f"/jobs/{'x' * 22}{path}")
        assert (refused.status_code, unknown.status_code) == (404, 404), path
        assert refused.json()["detail"].replace(job.id, "") == unknown.json()["detail"].replace("x" * 22, "")
    assert [about["id"] for about in server.ask("ann", "GET", "/jobs").json()] == [own.id]
    assert server.ask("ann", "GET", "/jobs").json()[0]["position"] == 1
    for who in ("kim", "lee", "max"):
        assert server.ask(who, "GET", f"/jobs/{job.id}").json()["owner"] == "kim"
    assert len(server.ask("lee", "GET", "/jobs").json()) == 2
    assert server.ask("lee", "DELETE", f"/jobs/{own.id}").json()["state"] == "cancelled"
    gate.set()


def test_annotators_cannot_use_or_remove_other_peoples_sessions(server: Server) -> None:
    made = server.session("kim").json()["session_id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", made)
    assert made[14] == "4"  # a random UUID, not one made from the time
    for method, query in (("GET", {}), ("GET", {"image": True}), ("DELETE", {})):
        refused = server.ask("ann", method, f"/session/{made}", params=query)
        assert (refused.status_code, "no session" in refused.json()["detail"]) == (404, True)
    for who in ("kim", "lee", "max"):
        assert server.ask(who, "GET", f"/session/{made}").status_code == 200
    assert server.ask("kim", "DELETE", f"/session/{made}").status_code == 200
    old, _ = server.sessions.add_session(str(_file(server)), 60)  # as an earlier version of the server did
    assert [server.ask(who, "GET", f"/session/{old}").status_code for who in ("kim", "lee")] == [404, 200]


def test_the_number_of_sessions_per_person_is_limited(server: Server) -> None:
    first, _ = (server.session("kim").json()["session_id"] for _ in range(2))
    refused = server.session("kim")
    assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (429, True)
    assert server.session("ann").status_code == 200
    server.ask("kim", "DELETE", f"/session/{first}")
    assert server.session("kim").status_code == 200


@pytest.mark.parametrize(
    "key", ["user", "author", "author_id", "made", "sha256", "organs", "origin", "accepted", "version", "pacs"]
)
def test_nobody_can_change_the_author_or_the_history_of_a_version(server: Server, key: str) -> None:
    assert server.save("lee").status_code == 200
    before = server.ask("kim", "GET", "/datastore/label/info", params={"label": "a", "tag": "final"}).json()
    for who in PEOPLE:
        assert server.describe(who, json.dumps({key: "kim"})) == 422
    assert server.ask("kim", "GET", "/datastore/label/info", params={"label": "a", "tag": "final"}).json() == before


def test_only_the_author_and_reviewers_can_change_the_info_of_a_label_map(server: Server) -> None:
    server.save("kim")
    assert [server.describe(who, f'{{"seen_by_{who}": true}}') for who in ("kim", "ann", "lee", "max")] == [200, 403, 200, 200]
    info = server.datastore.get_label_info("a", "final")
    assert (info["seen_by_kim"], "seen_by_ann" in info, info["user"]) == (True, False, "kim")


def test_a_saved_label_map_has_its_user_as_author(server: Server) -> None:
    saved = server.save("kim", author="lee", user="lee", accepted=True, remarks=["fine"], comment="small", label_info=[]).json()
    assert saved["left_out"] == ["accepted", "author", "remarks", "user"]
    assert (saved["author"], saved["info"]["user"], saved["info"]["comment"]) == ("kim", "kim", "small")
    assert "accepted" not in saved["info"]


def test_the_information_about_a_label_map_or_image_is_limited_in_size(server: Server) -> None:
    server.save("kim")
    statuses = [server.describe("kim", json.dumps({f"key{n}": "x" * 9000})) for n in range(20)]
    assert statuses == [200] * 7 + [422] * 13
    assert server.describe("kim", json.dumps({str(n): n for n in range(300)})) == 422
    assert server.save("kim", "mine", comment="x" * MAX_BYTES).status_code == 422
    query, parts = {"image": "a"}, [json.dumps({f"key{n}": "x" * 9000}) for n in range(20)]
    found = [server.ask("ann", "PUT", "/datastore/image/info", params=query, data={"info": p}).status_code for p in parts]
    assert found == statuses
    server.datastore.update_image_info("a", {"strategy": {"first": {"ts": 1, "client_id": "x" * 1_000_000}}})
    assert len(json.dumps(server.datastore.get_image_info("a"))) < 70_000


@pytest.mark.parametrize("key", ["strategy", "StudyInstanceUID", "PatientName", "name"])
def test_nobody_can_change_the_servers_information_about_an_image(server: Server, key: str) -> None:
    sent = {"info": json.dumps({key: "x"})}
    assert server.ask("ann", "PUT", "/datastore/image/info", params={"image": "a"}, data=sent).status_code == 422


def test_nan_in_the_json_of_a_client_is_refused(server: Server) -> None:
    server.save("kim")
    assert server.describe("kim", NAN) == 422
    assert server.ask("kim", "PUT", "/datastore/image/info", params={"image": "a"}, data={"info": NAN}).status_code == 422
    headers = bearer(token_of("max")) | {"Content-Type": "application/json"}
    for path in ("/train/unet_3d", "/batch/infer/unet_3d", "/scoring/organs", "/activelearning/first"):
        assert server.client.post(path, content=NAN, headers=headers).status_code == 422, path


def test_an_unusual_value_in_a_record_makes_no_route_fail(server: Server) -> None:
    server.save("kim")
    deep: Any = float("inf")
    for _ in range(200):
        deep = [deep]
    odd = {"dose": float("nan"), "deep": deep}  # records of earlier versions may contain these
    server.datastore.store.update_label_info("a", "final", odd)
    server.datastore.store.update_image_info("a", odd)
    for path in ("/datastore/?output=all", "/datastore/label/info?label=a&tag=final", "/datastore/image/info?image=a"):
        answer = server.ask("kim", "GET", path)
        assert answer.status_code == 200, path
        assert '"dose":null' in answer.text
    versions = server.ask("kim", "GET", "/datastore/label/versions?label=a").json()
    assert versions[0]["info"]["dose"] is None
    assert server.describe("kim", '{"checked": true}') == 200


def test_the_number_of_simultaneous_requests_per_person_is_limited(tmp_path: Path) -> None:
    app = create_app(ServerConfig(tokens=str(tokens_for(tmp_path / "tokens.yaml", PEOPLE)), requests_per_person=1))
    inner: list[int] = []
    client = TestClient(app, base_url="http://127.0.0.1")

    @app.get("/static-page")
    def page() -> dict[str, Any]:
        inner.extend(client.get("/metrics", headers=bearer(token_of(who))).status_code for who in ("max", "lee"))
        return {}

    assert client.get("/static-page", headers=bearer(token_of("max"))).status_code == 200
    assert inner[0] == 429
    assert inner[1] != 429
    assert client.get("/auth/token/valid", headers=bearer(token_of("max"))).status_code == 200


@pytest.mark.parametrize(("kind", "served"), [("multipart/form-data", 4), ("text/plain", 9)])
def test_the_number_of_simultaneous_uploads_per_person_is_limited(kind: str, served: int) -> None:
    statuses: list[int] = []

    async def ask_many() -> None:
        end = anyio.Event()

        async def wait(*_: Any) -> None:
            statuses.append(200)
            await end.wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        limited = PersonLimitMiddleware(wait, 150)
        headers = [(b"content-type", f"{kind}; boundary=b".encode())]
        scope = {"type": "http", "method": "PUT", "path": "/session/", "headers": headers}
        async with anyio.create_task_group() as group:
            for who in [*["kim"] * 9, "ann"]:
                group.start_soon(limited, {**scope, "medsam2_atlas.user": User(who, "annotator", who)}, None, send)
            await anyio.wait_all_tasks_blocked()
            end.set()
        assert not limited._now

    anyio.run(ask_many)
    assert statuses.count(200) == served + 1, "the other person is served"
    assert statuses.count(429) == 9 - served


def test_pictures_are_drawn_one_after_the_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    lock = threading.Lock()

    class Drawing:
        def find(self, study: str) -> Wanted:
            return Wanted(study, study, server.image, None, "", None)

        def draw(self, _: Wanted) -> Path:
            assert lock.acquire(blocking=False), "two pictures at once would need the memory of two CTs"
            time.sleep(0.01)
            drawn.append(1)
            lock.release()
            return _file(server)

    instance = SimpleNamespace(worklist=SimpleNamespace(pictures=Drawing()))
    monkeypatch.setattr("server.worklist.app_instance", lambda: instance)

    async def ask_many() -> list[int]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=bearer(token_of("kim"))) as kim:
            return [one.status_code for one in await asyncio.gather(*(kim.get("/worklist/picture?study=a") for _ in range(8)))]

    assert asyncio.run(ask_many()) == [200] * 8
    assert len(drawn) == 8


def test_a_picture_whose_browser_has_gone_is_not_drawn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    started, release = threading.Event(), threading.Event()

    class Drawing:
        def find(self, study: str) -> Wanted:
            return Wanted(study, study, None, None, "1.2", None)

        def draw(self, wanted: Wanted) -> Path:
            drawn.append(wanted.study)
            started.set()
            release.wait(10)
            return _file(server)

    instance = SimpleNamespace(worklist=SimpleNamespace(pictures=Drawing()))
    monkeypatch.setattr("server.worklist.app_instance", lambda: instance)

    async def ask(study: str, goes: bool) -> bytes:
        """Sends a request and returns the body of the answer; the client `goes` while it waits."""
        query, answer = f"study={study}".encode(), bytearray()
        named = [(b"host", b"127.0.0.1"), (b"authorization", bearer(token_of("kim"))["Authorization"].encode())]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/worklist/picture",
            "raw_path": b"/worklist/picture",
            "root_path": "",
        }
        scope |= {"query_string": query, "headers": named, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}

        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if goes and release.is_set():
                return {"type": "http.disconnect"}
            if not messages:
                await asyncio.sleep(60)
            return messages.pop()

        async def send(message: dict[str, Any]) -> None:
            answer.extend(message.get("body", b""))

        await server.app({**scope, "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}}, receive, send)
        return bytes(answer)

    async def ask_three() -> list[bytes]:
        asked = [asyncio.create_task(ask("first", False))]
        await asyncio.to_thread(started.wait, 10)
        asked += [asyncio.create_task(ask(*one)) for one in (("gone", True), ("last", False))]
        await asyncio.sleep(0.2)
        release.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask_three())
    assert drawn == ["first", "last"]
    assert answers == [b"x", empty_picture(), b"x"]


def _file(server: Server) -> Path:
    file = Path(server.sessions.store_path).parent / "image.nii.gz"
    file.write_bytes(b"x")
    return file
