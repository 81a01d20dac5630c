"""The server's audit log: every access to images and label maps is recorded, and every route is covered."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.test_access import bearer, here, routes
from medsam2_atlas.audit.reading import LineQuery, lines
from medsam2_atlas.storage import WorkFolder
from server.application import create_app
from server.audit import Audit, AuditMiddleware, note, settings_of
from server.audit_actions import NOT_RECORDED, RECORDED, action_of
from server.config import ServerConfig
from server.context import begin
from server.people import User
from server.throttle import Throttle

KIM = User("kim", "annotator", "token:kim")


class Served:
    """An application inside the middleware; it answers each request of `user` with `status`."""

    def __init__(self, folder: Path, config: ServerConfig | None = None) -> None:
        self.status, self.user, self.notes = 200, KIM, list[dict[str, Any]]()
        self.audit = Audit(config or ServerConfig())
        self.audit.open(WorkFolder(folder / ".medsam2_atlas"))
        self.work = folder / ".medsam2_atlas"
        self.client = TestClient(AuditMiddleware(self._answer, self.audit), base_url="http://127.0.0.1")

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        begin("request-1")
        if self.user.id:
            scope["medsam2_atlas.user"] = self.user
        for fields in self.notes:
            note(scope, **fields)
        if self.status == 0:
            raise RuntimeError("unexpected")
        self.before = self.lines()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        self.after = self.lines()
        await send({"type": "http.response.body", "body": b""})

    def lines(self) -> list[dict[str, Any]]:
        """Returns all lines except those about the server's start and end."""
        return [line for line in lines(self.work, LineQuery()) if not line["action"].startswith("server.")]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_every_route_is_either_recorded_or_listed_as_not_recorded(tmp_path: Path) -> None:
    client = here(create_app(ServerConfig()))
    wrong = []
    for method, path in routes(client):
        concrete = re.sub(r"\{[^}]+\}", "x", path)
        not_recorded = any(method in methods and re.fullmatch(rule, concrete) for methods, rule, _ in NOT_RECORDED)
        if (action_of(method, concrete) is not None) == not_recorded:
            wrong.append((method, path))
    assert not wrong, "each route must be in exactly one of RECORDED and NOT_RECORDED (server.audit_actions)"
    assert all(reason for _, _, reason in NOT_RECORDED)


@pytest.mark.parametrize(
    ("method", "url", "action", "study", "more"),
    [
        ("GET", "/datastore/image?image=a", "image.read", "a", {}),
        ("GET", "/worklist/picture?study=a", "image.read", "a", {}),
        ("GET", "/proxy/dicom/wado/studies/1.2/series/1.2.3/instances/4/frames/1", "image.read", "1.2.3", {}),
        ("GET", "/proxy/dicom/wado/studies/1.2/series/1.2.3/metadata", "image.read", "1.2.3", {}),
        ("GET", "/proxy/dicom/wado?requestType=WADO&studyUID=1&seriesUID=1.2.3", "image.read", "1.2.3", {}),
        ("GET", "/proxy/dicom/qido/studies", "list.read", "", {}),
        ("GET", "/datastore/label?label=a&tag=final", "label.read", "a", {"tag": "final"}),
        ("PUT", "/datastore/label?image=a", "label.sign_off", "a", {"tag": "final"}),
        ("PUT", "/datastore/label?image=a&tag=mine", "label.save", "a", {"tag": "mine"}),
        ("DELETE", "/datastore/label?id=a&tag=final", "label.remove", "a", {"tag": "final"}),
        ("POST", "/datastore/label/restore?label=a&version=2", "label.restore", "a", {"tag": "final", "version": 2}),
        ("PUT", "/datastore/image?image=a", "image.add", "a", {}),
        ("DELETE", "/datastore/image?id=a", "image.remove", "a", {}),
        ("GET", "/datastore/dataset", "export.dataset", "", {}),
        ("POST", "/infer/atlas?image=a", "model.run", "a", {"details": {"model": "atlas"}}),
        ("PUT", "/model/unet_3d", "weights.put", "", {"details": {"model": "unet_3d"}}),
        ("GET", "/logs/", "log.read", "", {}),
    ],
)
def test_a_line_contains_user_action_and_study(
    served: Served, method: str, url: str, action: str, study: str, more: dict[str, Any]
) -> None:
    served.client.request(method, url)
    (line,) = served.lines()
    assert line["action"] == action
    assert (line["who"], line["who_id"], line["role"], line["place"]) == ("kim", "token:kim", "annotator", "testclient")
    assert (line["outcome"], line["status"], line["request"]) == ("done", 200, "request-1")
    assert line.get("study", "") == (served.audit.opened.names.hashed(study) if study and served.audit.opened else "")
    assert more.items() <= line.items()


def test_the_line_is_written_before_the_answer_is_sent(served: Served) -> None:
    served.client.get("/datastore/image", params={"image": "a"})
    assert (served.before, [line["action"] for line in served.after]) == ([], ["image.read"])


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "done"), (202, "done"), (304, "done"), (403, "refused"), (409, "refused"), (500, "failed")]
)
def test_a_line_contains_the_outcome_of_the_request(served: Served, status: int, outcome: str) -> None:
    served.status = status
    served.client.put("/datastore/label", params={"image": "a"})
    (line,) = served.lines()
    assert (line["outcome"], line["status"]) == (outcome, status)


def test_a_request_without_an_answer_is_recorded_as_failed(served: Served) -> None:
    served.status = 0
    with pytest.raises(RuntimeError):
        served.client.put("/datastore/label", params={"image": "a"})
    (line,) = served.lines()
    assert line["outcome"] == "failed"
    assert "status" not in line


def test_handlers_add_versions_and_further_studies(served: Served) -> None:
    served.notes = [{"study": "a", "tag": "final", "version": 3}, {"study": "b", "tag": "final", "outcome": "failed"}]
    served.client.post("/proxy/dicom/stow/studies")
    first, second = served.lines()
    assert (first["action"], first["version"], first["outcome"]) == ("label.sign_off", 3, "done")
    assert second["outcome"] == "failed"
    assert first["study"] != second["study"]


def test_reading_many_frames_of_a_series_is_recorded_once_per_person(served: Served) -> None:
    for user in (KIM, User("lee", "annotator", "token:lee")):
        served.user = user
        for frame in range(20):
            served.client.get(f"/proxy/dicom/wado/studies/1.2/series/1.2.3/instances/4/frames/{frame}")
    served.client.get("/proxy/dicom/wado/studies/1.2/series/1.2.4/metadata")
    assert [line["who"] for line in served.lines()] == ["kim", "lee", "lee"]


def test_every_change_is_recorded(served: Served) -> None:
    for _ in range(3):
        served.client.put("/datastore/label", params={"image": "a"})
    assert len(served.lines()) == 3


def test_refused_requests_cannot_flood_the_log(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.audit._ANONYMOUS_LINES", 20)
    served.user, served.status = User("", "annotator"), 401
    for number in range(50):
        served.client.get(f"/datastore/image?image={number}")
    assert len(served.lines()) == 20
    (line, *_) = served.lines()
    assert (line["outcome"], line["status"]) == ("refused", 401)
    assert "who" not in line


def test_long_study_names_do_not_stay_in_memory() -> None:
    throttle = Throttle(lambda: 0.0)
    assert [throttle.passes(("kim", "image.read", "a"), 60.0) for _ in range(2)] == [0, None]
    tracemalloc.start()
    try:
        for number in range(200):
            assert throttle.passes(("10.0.0.1", "image.read", f"{number}" + "x" * 50_000), 60.0) == 0
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_lines_about_refused_requests_contain_neither_paths_nor_studies(served: Served) -> None:
    served.status = 403
    served.client.get("/what/Doe^Jane/else?study=Doe^Jane")
    (line,) = served.lines()
    assert line["action"] == "access.refused"
    assert line["details"] == {"method": "GET", "route": "/what"}


def test_the_file_contains_study_names_only_if_the_operator_allows_them(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.client.get("/datastore/image", params={"image": "Doe^Jane 1970"})
    assert "Doe" not in (served.work / "audit" / "audit.jsonl").read_text()
    plain = Served(tmp_path / "other", ServerConfig(log_names=True))
    plain.client.get("/datastore/image", params={"image": "Doe^Jane 1970"})
    assert [line["study"] for line in plain.lines()] == ["Doe^Jane 1970"]


def test_the_start_is_recorded_with_changed_settings_and_without_secrets(tmp_path: Path) -> None:
    Served(tmp_path).audit.close()
    Served(tmp_path, ServerConfig(queue=3)).audit.close()
    found = lines(tmp_path / ".medsam2_atlas", LineQuery(action="server"))
    assert [line["action"] for line in found] == ["server.start", "server.stop"] * 2
    assert [found[n]["details"]["changed"] for n in (0, 2)] == [[], ["server_queue"]]
    assert found[2]["details"]["server_queue"] == "3"
    shown = settings_of(ServerConfig(), {"client_secret": "x", "atlas": "/data/atlas", "server_queue": "3"})
    assert shown == {"atlas": "/data/atlas", "client_secret": "(secret)"}


def test_only_admins_can_read_and_filter_the_log(people: Path) -> None:
    app, _ = opened(people)
    client = here(app)
    assert client.get("/audit", headers=bearer(secret("kim"))).status_code == 403
    assert client.get("/audit").status_code == 401
    answer = client.get("/audit", params={"action": "audit", "limit": 5}, headers=bearer(secret("max")))
    assert answer.headers["cache-control"] == "no-store"
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["outcome"] for line in found] == ["refused", "refused"]
    assert client.get("/audit", params={"limit": 10**9}, headers=bearer(secret("max"))).status_code == 422


def test_lines_for_admins_contain_no_path_of_the_server(people: Path) -> None:
    app, work = opened(people)
    assert str(people) in (work / "audit" / "audit.jsonl").read_text()  # the operator may see paths
    answer = here(app).get("/audit", headers=bearer(secret("max")))
    assert "server_tokens" in answer.text
    assert str(people.parent) not in answer.text


def test_readiness_reports_to_admins_that_lines_cannot_be_written(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from medsam2_atlas.audit.files import AuditFiles
    from server.readiness import check_audit

    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    assert check_audit(served.audit.opened) == []
    monkeypatch.setattr(AuditFiles, "_open", refuse)
    served.client.put("/datastore/label", params={"image": "a"})
    (trouble,) = check_audit(served.audit.opened)
    assert "Read-only" in trouble.problem
    monkeypatch.undo()
    assert check_audit(served.audit.opened) == []
    assert [line["action"] for line in served.lines()] == ["label.sign_off"]


def test_actions_have_plain_names() -> None:
    assert all(re.fullmatch(r"[a-z]+(\.[a-z_]+)?", action.name) for _, _, action in RECORDED)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Returns a token file in which each token begins with the user's name."""
    file = tmp_path / "tokens.yaml"
    write_people(file, {"kim": "annotator", "max": "admin"})
    return file


def write_people(file: Path, roles: dict[str, str]) -> None:
    file.write_text("\n".join(f"- {{name: {name}, role: {role}, token: {secret(name)}}}" for name, role in roles.items()))
    file.chmod(0o600)


def secret(name: str) -> str:
    return f"{name}-0123456789-0123456789-0123456789"


def opened(people: Path) -> tuple[Any, Path]:
    """Returns an application whose audit log is open, and its work folder."""
    app, work = create_app(ServerConfig(tokens=str(people))), people.parent / ".medsam2_atlas"
    app.state.audit.open(WorkFolder(work))
    return app, work


def test_logins_are_recorded_without_passwords_typed_as_names(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.audit.Throttle.passes", lambda *_: 0)
    app, work = opened(people)
    client = here(app, follow_redirects=False)
    client.post("/login", data={"username": "kim", "password": secret("kim")})
    stranger = here(app, follow_redirects=False)
    stranger.post("/login", data={"username": "max", "password": "wrong"})
    stranger.post("/auth/token", data={"username": "my-secret-password", "password": "kim"})
    client.post("/logout")
    found = lines(work, LineQuery(action="login"))
    assert [line["outcome"] for line in found] == ["done", "refused", "refused"]
    assert [line["details"]["tried"] for line in found] == ["kim", "max", "(unknown)"]
    assert found[0]["who_id"] == "token:kim"
    assert "who_id" not in found[1]
    assert [line["who"] for line in lines(work, LineQuery(action="logout"))] == ["kim"]
    assert "secret" not in (work / "audit" / "audit.jsonl").read_text()


def test_changes_of_the_token_file_are_recorded(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, work = opened(people)
    monkeypatch.setattr("server.token_file._LOOK_SECONDS", -1.0)
    write_people(people, {"kim": "reviewer", "eve": "annotator", "max": "admin"})
    client = here(app)
    assert client.get("/info/", headers=bearer(secret("eve"))).status_code != 401
    people.write_text("{")
    client.get("/auth/token/valid", headers=bearer(secret("kim")))
    first, second = lines(work, LineQuery(action="settings"))
    assert first["details"] == {"added": ["eve (annotator)", "kim (reviewer)"], "removed": ["kim (annotator)"]}
    assert second["outcome"] == "failed"
    assert secret("eve") not in (work / "audit" / "audit.jsonl").read_text()


def test_a_request_from_another_machine_is_not_recorded_as_the_local_user(tmp_path: Path) -> None:
    app = create_app(ServerConfig())
    app.state.audit.open(WorkFolder(tmp_path))
    assert here(app, client=("10.0.0.7", 50000)).get("/datastore/image?image=a").status_code == 403
    (line,) = lines(tmp_path, LineQuery(action="image"))
    assert (line["outcome"], line["place"]) == ("refused", "10.0.0.7")
    assert "who_id" not in line
