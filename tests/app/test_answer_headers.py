"""Every answer has headers that forbid browsers to frame it, to run foreign scripts, to guess its type and to store it."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.test_access import bearer, here, routes
from medsam2_atlas.base.errors import InputError
from server.application import create_app
from server.config import ServerConfig, server_config
from server.headers import CACHED, HeadersMiddleware, html_page
from token_files import token_of, tokens_for

STATIC = ("/ohif/", "/static/", "/page/")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tokens_for(tmp_path_factory.mktemp("tokens") / "tokens.yaml", {"max": "admin"})
    return create_app(ServerConfig(tokens=str(file), root_path="/medsam2"))


def policy_of(answer: Any) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in answer.headers["content-security-policy"].split(";"))
    return {name: sources for name, _, sources in parts}


def check(answer: Any, path: str) -> None:
    policy = policy_of(answer)
    assert policy["default-src"] == "'none'", path
    assert policy["frame-ancestors"] == "'none'", path
    assert policy["base-uri"] == "'none'", path
    assert policy["form-action"] in ("'none'", "'self'"), path
    scripts = policy.get("script-src", "'none'").split()
    assert not {"'unsafe-inline'", "data:", "*", "https:", "blob:"} & set(scripts), path
    assert path.startswith("/ohif") or "'unsafe-eval'" not in scripts, path
    assert answer.headers["x-frame-options"] == "DENY", path
    assert answer.headers["x-content-type-options"] == "nosniff", path
    assert answer.headers["referrer-policy"] == "same-origin", path
    assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
    if not path.startswith(STATIC):
        assert answer.headers["cache-control"] == "no-store", path


def test_every_answer_has_the_headers(app: Any) -> None:
    client = here(app, follow_redirects=False)
    seen = set()
    odd = [
        ("GET", "/none"),
        ("BREW", "/ohif/"),
        ("OPTIONS", "/info/"),
        ("HEAD", "/healthz"),
        ("GET", "/logs"),
        ("GET", "/readyz"),
    ]
    odd += [("POST", "/login"), ("GET", "/medsam2"), ("GET", "/redoc"), ("GET", "/docs/oauth2-redirect"), ("GET", "/ohif/none")]
    for method, path in [*routes(client), *odd]:
        concrete = re.sub(r"\{[^}]+\}", "x", path)
        for given in ({}, bearer(token_of("max")), {"Accept": "text/html"}, {"Content-Length": "99999999999"}):
            if given.get("Authorization") and method != "GET" and not concrete.startswith(("/ohif", "/login")):
                continue  # it could change something
            answer = client.request(method, concrete, headers=given)
            seen.add(answer.status_code)
            check(answer, concrete)
    assert {200, 303, 307, 308, 401, 404, 405, 413} <= seen


def test_headers_of_a_proxied_answer_do_not_weaken_the_headers() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"cache-control", b"public, max-age=9"),
            (b"x-frame-options", b"ALLOWALL"),
            (b"referrer-policy", b"unsafe-url"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    answer = TestClient(HeadersMiddleware(inner)).get("/")
    check(answer, "/")
    assert len(answer.headers.get_list("x-frame-options")) == 1


def test_only_files_that_are_the_same_for_everybody_may_be_cached(app: Any) -> None:
    client = here(app, headers=bearer(token_of("max")))
    bundle = re.search(r'src="\.\./ohif/(app\.bundle\.[0-9a-f]+\.js)"', client.get("/ohif/").text)
    assert bundle
    assert client.get(f"/ohif/{bundle[1]}").headers["cache-control"] == CACHED[0]
    assert client.get("/ohif/app-config.js").headers["cache-control"] == CACHED[1]
    assert client.get("/ohif/viewer?StudyInstanceUIDs=1.2.3").headers["cache-control"] == "no-store"


def test_only_the_scripts_of_a_page_itself_run(app: Any) -> None:
    client = here(app, headers=bearer(token_of("max")))
    for path in ("/login", "/docs", "/ohif/", "/ohif/a/b/c"):
        answer = client.get(path)
        policy = policy_of(answer)
        for element in ("script", "style"):
            allowed = policy[f"{element}-src"]
            contents = [text for text in re.findall(rf"<{element}[^>]*>(.*?)</{element}>", answer.text, re.S) if text]
            for content in contents:
                digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in allowed or (path.startswith("/ohif") and element == "style"), path
            assert allowed.count("sha256") == (len(contents) if element == "script" or not path.startswith("/ohif") else 0)
        assert not re.search(r"<[^>]+\s(on\w+|style)=", re.sub(r"<script>.*?</script>", "", answer.text, flags=re.S)), path


def test_no_page_loads_anything_from_another_host(app: Any) -> None:
    client = here(app, headers=bearer(token_of("max")), follow_redirects=True)
    for path in ("/", "/docs", "/figures", "/compare", "/review", "/login", "/ohif/", "/logs/", "/metrics", "/openapi.json"):
        answer = client.get(path)
        if "text/html" not in answer.headers["content-type"]:
            assert answer.headers["content-type"].startswith(("text/plain", "application/json")), path
            continue
        loaded = re.findall(
            r"""(?:src|href|action|url\(|import\(?|fetch\()\s*=?\s*["']?((?:https?:)?//[^"'\s)>]+)""", answer.text
        )
        assert loaded == [], path
        for sources in policy_of(answer).values():
            assert "//" not in sources
    assert client.get("/redoc").status_code == 404
    style = client.get("/ohif/app.bundle.css").text
    assert not re.search(r"(@import|url\()[^;]{0,20}https?:", style)
    assert len(style) > 200_000


def test_the_documentation_lists_every_route_with_its_role(app: Any) -> None:
    text = here(app, headers=bearer(token_of("max"))).get("/docs").text
    for path in app.openapi()["paths"]:
        assert f"{path}</code>" in text
    assert re.search(r"PUT /datastore/label</code>[^<]*<span class=\"role\">annotator", text)
    assert re.search(r"GET /logs/</code>[^<]*<span class=\"role\">admin", text)
    assert "<td>expected_version</td><td>query</td><td>integer</td>" in text


def test_only_listed_origins_may_show_pages_in_a_frame() -> None:
    config = server_config({"server_frame_ancestors": "https://portal.example.org, https://b.example:8443"})
    answer = here(create_app(config)).get("/login")
    assert policy_of(answer)["frame-ancestors"] == "https://portal.example.org https://b.example:8443"
    assert "x-frame-options" not in answer.headers
    for text in ("*", "https://a.example; script-src *", "portal.example.org", "https://a.example/path", "'self'"):
        with pytest.raises(InputError, match="frame_ancestors"):
            server_config({"server_frame_ancestors": text})


def test_a_page_without_scripts_allows_none() -> None:
    answer = html_page("<!doctype html><p>x</p>")
    assert "script-src 'none'; style-src 'none'" in answer.headers["content-security-policy"]


def test_a_script_inserted_into_a_page_does_not_run() -> None:
    template, foreign = "<script>own</script>$name", "<script>foreign</script>"
    policy = html_page(template.replace("$name", foreign), template=template).headers["content-security-policy"]
    assert policy == html_page(template).headers["content-security-policy"]
