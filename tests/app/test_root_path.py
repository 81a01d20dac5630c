"""The server below a path of its host, behind proxies that remove the path and behind proxies that pass it on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.root_path import parse_root_path
from server import viewer
from server.application import create_app
from server.config import ServerConfig, server_config
from server.root_path import FIRST_SEGMENTS, RootPathMiddleware, path_of
from server.viewer_files import served_viewer
from token_files import bearer, token_of, tokens_for

HOST = "http://127.0.0.1"
ROOT = "/medsam2"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    return str(tokens_for(file, {"kim": "annotator", "max": "admin"}))


@pytest.fixture(scope="module")
def app(tokens: str) -> Any:
    return create_app(ServerConfig(tokens=tokens, root_path=ROOT))


@pytest.fixture(scope="module")
def unnamed(tokens: str) -> Any:
    """Returns a server without the setting `root_path`."""
    return create_app(ServerConfig(tokens=tokens))


# With MONAI Label's own option, uvicorn puts the root path before each path, whether the proxy has passed it on or not.
WAYS = {
    "removed": ("", ""),
    "passed on": ("", ROOT),
    "own option, removed": (ROOT, ROOT),
    "own option, passed on": (ROOT, ROOT * 2),
    "own option with a slash, removed": (f"{ROOT}/", f"{ROOT}/"),
    "own option with a slash, passed on": (f"{ROOT}/", f"{ROOT}/{ROOT}"),
}


@pytest.fixture(params=list(WAYS))
def client(request: pytest.FixtureRequest) -> TestClient:
    """Returns a client that uses paths without the root path; proxy and uvicorn add it in different ways."""
    given, prefix = WAYS[request.param]
    app = request.getfixturevalue("unnamed" if given else "app")
    return TestClient(
        _Proxy(app, prefix),
        base_url=HOST,
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
        follow_redirects=False,
        root_path=given,
    )


class _Proxy:
    """Puts a prefix before each path."""

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raw = scope.get("raw_path") or scope["path"].encode()
            scope = {**scope, "path": self._prefix + scope["path"], "raw_path": self._prefix.encode() + raw}
        await self._app(scope, receive, send)


def page(client: TestClient, path: str, **headers: str) -> Response:
    answer: Any = client.get(path, headers={"Accept": "text/html", **headers})
    return answer


def kim() -> dict[str, str]:
    return bearer(token_of("kim"))


def test_a_login_leads_to_the_viewer(client: TestClient) -> None:
    refused = page(client, "/ohif/monai-label?StudyInstanceUIDs=1.2")
    assert refused.status_code == 303
    asked = urljoin(f"https://host{ROOT}/ohif/monai-label", refused.headers["location"])
    back = "/ohif/monai-label?StudyInstanceUIDs=1.2"
    assert asked == f"https://host{ROOT}/login?next={quote(back, safe='')}"
    form = re.search(r'<form method="post" action="([^"]+)"', client.get("/login", params={"next": back}).text)
    assert form is not None
    assert urljoin(f"https://host{ROOT}/login", form[1]) == f"https://host{ROOT}/login"
    returned = client.post("/login", data={"password": token_of("kim"), "next": back})
    assert urljoin(f"https://host{ROOT}/login", returned.headers["location"]) == f"https://host{ROOT}{back}"
    entered = client.post("/login", data={"password": token_of("kim")})
    assert entered.status_code == 303
    assert urljoin(f"https://host{ROOT}/login", entered.headers["location"]) == f"https://host{ROOT}/"
    assert "path=" not in entered.headers["set-cookie"].lower()  # so browsers use the path of the page: ROOT
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert client.get("/auth/token/valid", headers={"Cookie": cookie}).status_code == 200


def test_routes_need_the_same_roles_below_a_root_path(client: TestClient) -> None:
    for method, path, status in (
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 401),
        ("GET", "/ohif/", 401),
        ("DELETE", "/datastore", 401),
    ):
        assert client.request(method, path).status_code == status, path
    assert client.get("/metrics", headers=kim()).status_code == 403
    assert client.delete("/datastore?id=x", headers=kim()).status_code == 403
    assert client.get("/ohif/", headers=kim()).status_code == 200
    assert client.get(f"{ROOT}x/healthz").status_code == 401


def test_large_bodies_are_refused_by_route(client: TestClient) -> None:
    large = {"Content-Length": "20000000", **kim()}
    multipart = {"Content-Type": "multipart/form-data; boundary=b", **large}
    assert client.post("/infer/none", content=b"", headers=large).status_code == 413
    assert client.post("/login", content=b"", headers=multipart).status_code == 413
    assert client.post("/infer/none", content=b"", headers=multipart).status_code != 413  # images may be larger


def test_requests_are_counted_by_their_route(client: TestClient) -> None:
    client.get("/ohif/app-config.js", headers=kim())
    client.get("/healthz")
    counted = client.get("/metrics", headers=bearer(token_of("max"))).text
    assert 'route="/healthz"' in counted
    assert 'route="/ohif' in counted
    assert ROOT not in counted


def test_paths_without_a_trailing_slash_are_redirected(client: TestClient) -> None:
    for path, target in (("/info", "/info/"), ("/ohif", "/ohif/"), ("/jobs/", "/jobs"), ("/logs?lines=3", "/logs/?lines=3")):
        answer = client.get(path, headers=bearer(token_of("max")))
        assert answer.status_code == 307
        assert "://" not in answer.headers["location"]  # TLS ends at the proxy
        assert urljoin(f"https://host{ROOT}{path}", answer.headers["location"]) == f"https://host{ROOT}{target}"
    moved = client.get("/review?q=a", headers=kim())
    assert (moved.status_code, urljoin(f"https://host{ROOT}/review", moved.headers["location"])) == (
        308,
        f"https://host{ROOT}/?q=a",
    )


def test_the_documentation_contains_the_root_path(client: TestClient) -> None:
    assert 'href="openapi.json"' in client.get("/docs", headers=kim()).text
    assert client.get("/openapi.json", headers=kim()).json()["servers"][0] == {"url": ROOT}


def test_forged_proxy_headers_have_no_effect(unnamed: Any) -> None:
    client = TestClient(unnamed, base_url=HOST, client=("127.0.0.1", 50000), follow_redirects=False)
    forged = {
        "X-Forwarded-Prefix": "/evil",
        "X-Script-Name": "/evil",
        "X-Forwarded-Path": "/evil",
        "X-Original-URL": "/metrics",
    }
    entered = client.post("/login", data={"password": token_of("kim")}, headers=forged)
    assert entered.headers["location"] == "./"
    assert "path=" not in entered.headers["set-cookie"].lower()
    viewer_page = client.get("/ohif/", headers=forged | kim())
    assert "evil" not in viewer_page.text + str(viewer_page.headers)
    host = client.get("/info", headers=kim() | {"Host": "evil.example"}).headers["location"]
    assert host == "./info/"


def test_pages_work_without_the_setting_if_the_proxy_removes_the_path(unnamed: Any) -> None:
    client = TestClient(unnamed, base_url=HOST, client=("127.0.0.1", 50000), follow_redirects=False)
    refused = page(client, "/figures")
    assert urljoin("https://host/a/b/figures", refused.headers["location"]) == "https://host/a/b/login?next=%2Ffigures"
    moved = client.get("/review", headers=kim()).headers["location"]
    assert urljoin("https://host/a/b/review", moved) == "https://host/a/b/"
    for path in ("/", "/figures", "/compare"):
        links = re.findall(r"""(?:href|src)="([^"#]+)""", client.get(path, headers=kim()).text)
        assert len(links) > 5
        assert not any(link.startswith("/") for link in links)


def test_the_root_path_redirects_to_its_trailing_slash(app: Any) -> None:
    client = TestClient(app, base_url=HOST, client=("127.0.0.1", 50000), follow_redirects=False)
    answer = client.get(ROOT)
    assert (answer.status_code, answer.headers["location"]) == (308, f"{ROOT}/")


def test_an_encoded_slash_cannot_leave_the_root_path(app: Any) -> None:
    client = TestClient(app, base_url=HOST, client=("127.0.0.1", 50000), follow_redirects=False)
    for path in ("/ohif/a%2Fb", "/ohif/a%2F..%2Fb"):
        refused = page(client, ROOT + path)
        assert (
            urljoin(f"https://host{ROOT}{path}", refused.headers["location"]).partition("?")[0] == f"https://host{ROOT}/login"
        )


def test_links_of_the_viewer_are_relative_and_correct(client: TestClient) -> None:
    for path in ("/ohif/", "/ohif/monai-label", "/ohif/local/deep", f"/ohif/{'a' * 300}"):
        text = client.get(path, headers=kim()).text
        links = re.findall(r"""(?:src|href)="(?!https?:)([^"]+)""", text)
        assert len(links) > 10
        assert not any(link.startswith("/") for link in links)
        for link in links[-3:]:
            target = urljoin(f"https://host{ROOT}{path}", link).removeprefix(f"https://host{ROOT}")
            assert target.startswith("/ohif/")
            assert (served_viewer().built / target.removeprefix("/ohif/")).is_file()
        assert "'/ohif/'" not in text


def test_scripts_of_the_viewer_load_other_scripts_from_their_own_folder(client: TestClient) -> None:
    named = [file for file in served_viewer().built.glob("*.js") if b'"/ohif/"' in file.read_bytes()]
    assert len(named) == 5  # the page's own script, and workers; check `viewer.py` if a new version of OHIF has others
    for file in sorted(named, key=lambda one: one.stat().st_size)[:-1]:
        answer = client.get(f"/ohif/{file.name}", headers=kim())
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.content == file.read_bytes().replace(b'"/ohif/"', viewer._SCRIPTS_FOLDER)
        assert answer.content.count(b"__webpack_require__.p = new URL(") == 1


def test_files_of_the_viewer_contain_no_absolute_path(client: TestClient) -> None:
    for file in sorted(served_viewer().own.glob("*.js")):
        text = client.get(f"/ohif/{file.name}", headers=kim()).text
        assert not re.search(r"""['"`(]/[a-z]""", text), file.name


def test_servers_on_one_host_use_different_cookie_names(app: Any, unnamed: Any) -> None:
    names = set()
    for one, host in ((app, "h"), (unnamed, "h"), (unnamed, "h:8000"), (unnamed, "h:8001"), (app, "h:8001")):
        client = TestClient(one, base_url=f"http://{host}", client=("127.0.0.1", 50000), follow_redirects=False)
        names.add(client.post("/login", data={"password": token_of("kim")}).headers["set-cookie"].partition("=")[0])
    assert len(names) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]+", name) for name in names)


def test_mounted_applications_and_jobs_keep_the_root_path() -> None:
    seen = []

    async def answer(request: Request) -> Response:
        seen.append((path_of(request.scope), request.url.path))
        return PlainTextResponse("", 202, headers={"Location": "/jobs/1"})

    async def away(request: Request) -> Response:
        return RedirectResponse("https://elsewhere.example/x")

    async def relative(request: Request) -> Response:
        return RedirectResponse("next?a=1")

    routes = [Mount("/inner", routes=[Route("/x", answer)]), Route("/away", away), Route("/relative", relative)]
    app = Starlette(routes=routes, middleware=[Middleware(RootPathMiddleware, root_path=ROOT)])
    for path in ("/inner/x", f"{ROOT}/inner/x"):
        made = TestClient(app).get(path)
        assert (made.status_code, made.headers["location"]) == (202, f"{ROOT}/jobs/1")
    assert seen == [("/inner/x", f"{ROOT}/inner/x")] * 2
    assert TestClient(app).get("/away", follow_redirects=False).headers["location"] == "https://elsewhere.example/x"
    assert TestClient(app).get("/relative", follow_redirects=False).headers["location"] == "next?a=1"


@pytest.mark.parametrize(("text", "path"), [("", ""), ("/", ""), ("/medsam2", "/medsam2"), ("/a/b-c_1.2~/", "/a/b-c_1.2~")])
def test_a_root_path_consists_of_plain_segments(text: str, path: str) -> None:
    assert parse_root_path(text) == path
    assert server_config({"server_root_path": text}).root_path == path


@pytest.mark.parametrize(
    "text",
    [
        *("medsam2", "//host/x", "/a//b", "/..", "/a/../b", "/./a", "/a?b", "/a#b", "/a b", "/a\r\nSet-Cookie: x"),
        *("/a%2e", "/ä", "https://host/medsam2", "/a;b", '/a"b', "/<a>", "/a\\b", "/" + "a" * 300, "/a\x00"),
    ],
)
def test_a_root_path_that_could_leave_the_server_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="such as /medsam2"):
        parse_root_path(text)
    with pytest.raises(InputError, match="root_path"):
        server_config({"server_root_path": text})


def test_a_root_path_that_begins_with_a_path_of_the_server_is_refused(app: Any) -> None:
    pages = {"figures", "page", "review", "login", "logout", "docs", "redoc", "openapi.json", "favicon.ico"}
    hidden = pages | {"ohif", "proxy", "static"}
    assert {path.split("/")[1] for path in app.openapi()["paths"]} | hidden == FIRST_SEGMENTS
    for text in ("/ohif", "/review/x", "/datastore"):
        with pytest.raises(InputError, match="own paths"):
            server_config({"server_root_path": text})


def test_serve_checks_the_root_path_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from medsam2_atlas.cli import app as commands

    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, command: started.append(command))
    monkeypatch.setattr("medsam2_atlas.cli.port.check_port", lambda host, port: None)
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    refused = CliRunner().invoke(commands, ["serve", str(tmp_path), "--root-path", "medsam2"])
    assert isinstance(refused.exception, InputError)
    assert not started
    CliRunner().invoke(commands, ["serve", str(tmp_path), "--root-path", "/medsam2/"])
    command = started[0]
    assert command[command.index("server_root_path") + 1] == "/medsam2"
