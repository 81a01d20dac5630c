"""An issuer that hangs or sends garbage delays only requests that need it, and never causes an error 500."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI, Request
from jwt.algorithms import RSAAlgorithm
from starlette.middleware import Middleware

from server import errors, login
from server import issuer as issuer_module
from server.access import Access, AccessMiddleware, user_of
from server.config import ServerConfig
from token_files import bearer, token_of, tokens_for
from waiting import Clock, until

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """An issuer whose answers are set by the tests: bytes, or None to hang."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[], bytes | None]] = {}
        self.status = 200
        self.caching = ""
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                outer.asked.append(name)
                content = outer.answers[name]()
                if content is None:
                    outer.released.wait(60)
                    return
                self.send_response(outer.status)
                if outer.caching:
                    self.send_header("Cache-Control", outer.caching)
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.says("openid-configuration", {"jwks_uri": f"{self.url}/certs", "token_endpoint": f"{self.url}/token"})
        self.says("certs", {"keys": [self.key("k1")]})
        self.answers["token"] = lambda: json.dumps({"access_token": self.token()}).encode()

    def says(self, name: str, content: Any) -> None:
        self.answers[name] = lambda: content if isinstance(content, bytes) else json.dumps(content).encode()

    def hangs(self) -> None:
        for name in self.answers:
            self.answers[name] = lambda: None

    def key(self, name: str) -> dict[str, Any]:
        return {**RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "RS256"}

    def token(self, key: str = "k1", **changes: Any) -> str:
        claims = {
            "iss": self.url,
            "aud": "medsam2-atlas",
            "exp": time.time() + 300,
            "preferred_username": "kim",
            "realm_access": {"roles": ["annotator"]},
        }
        return jwt.encode(claims | changes, KEY, "RS256", headers={"kid": key})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.released.set()
    issuer.server.shutdown()


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def url(issuer: Issuer, tmp_path: Path, clock: Clock) -> Iterator[str]:
    """Yields the URL of a server with this project's login and a few routes."""
    tokens_for(tmp_path / "tokens.yaml", {"lee": "admin"})
    config = ServerConfig(oidc_issuer=issuer.url, tokens=str(tmp_path / "tokens.yaml"))
    access = Access(config, clock)
    app = FastAPI(middleware=[Middleware(AccessMiddleware, access=access, config=config)])
    app.state.access = access
    errors.install(app)
    app.include_router(login.router)

    @app.get("/healthz")
    async def healthz() -> None:
        pass

    @app.get("/info/")
    def info(request: Request) -> str:
        return user_of(request).name

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


def timed(ask: Callable[[], requests.Response]) -> tuple[int, float]:
    began = time.monotonic()
    status = ask().status_code
    return status, time.monotonic() - began


def test_a_hanging_issuer_delays_only_requests_that_need_it(issuer: Issuer, url: str) -> None:
    token = issuer.token()
    issuer.hangs()
    lee = {"username": "lee", "password": token_of("lee")}
    with ThreadPoolExecutor(80) as people:
        stuck = [people.submit(timed, lambda: requests.get(f"{url}/info/", headers=bearer(token))) for _ in range(60)]
        stuck += [people.submit(timed, lambda: requests.post(f"{url}/login", {"password": "x"})) for _ in range(20)]
        time.sleep(0.5)
        for _ in range(3):
            for path, headers in (("healthz", bearer(token)), ("login", bearer(token)), ("auth/", bearer(token))):
                assert timed(lambda p=path, h=headers: requests.get(f"{url}/{p}", headers=h)) < (200, 1.0)
            assert timed(lambda: requests.get(f"{url}/info/", headers=bearer(token_of("lee")))) < (200, 1.0)
            assert timed(lambda: requests.post(f"{url}/auth/token", lee)) < (200, 1.0)
        answers = [future.result() for future in stuck]
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < 10
    assert timed(lambda: requests.get(f"{url}/info/", headers=bearer(token))) < (503, 0.5)
    assert timed(lambda: requests.post(f"{url}/login", {"password": "x"})) < (503, 0.5)
    assert issuer.asked.count("openid-configuration") <= 3


def test_known_keys_stay_valid_for_an_hour_while_the_issuer_hangs(issuer: Issuer, url: str, clock: Clock) -> None:
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).json() == "kim"
    asked = len(issuer.asked)
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).ok
    assert len(issuer.asked) == asked
    issuer.hangs()
    for seconds in (200, 301, 350, 3000, 300 + 3590):
        clock.now = 1000 + seconds
        assert timed(lambda: requests.get(f"{url}/info/", headers=bearer(issuer.token()))) < (200, 1.0)
    clock.now = 1000 + 300 + 3610
    answer = requests.get(f"{url}/info/", headers=bearer(issuer.token()))
    assert (answer.status_code, "does not answer" in answer.json()["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("caching", "seconds"),
    [
        ("", 300),
        ("no-cache", 300),
        ("public, max-age=900", 900),
        ('MAX-AGE = "900", must-revalidate', 900),
        ("s-maxage=900", 300),
        ("max-age=0", 30),
        ("max-age=99999999999", 86400),
        ("max-age=-5", 300),
        ("max-age=soon", 300),
    ],
)
def test_a_withdrawn_key_is_valid_only_for_the_time_the_issuer_set(
    issuer: Issuer, clock: Clock, caching: str, seconds: float
) -> None:
    issuer.caching = caching
    access = Access(ServerConfig(oidc_issuer=issuer.url), clock)
    token = issuer.token()
    assert access.user(token) is not None
    issuer.says("certs", {"keys": [issuer.key("k2")]})
    clock.now += seconds / 2 - 1
    assert access.user(token) is not None
    clock.now += seconds / 2 + 2
    assert access.user(token) is None


def test_keys_are_renewed_in_the_background_before_they_expire(issuer: Issuer, clock: Clock) -> None:
    access = Access(ServerConfig(oidc_issuer=issuer.url), clock)
    token = issuer.token()
    assert access.user(token) is not None
    for _ in range(10):
        clock.now += 160
        asked = issuer.asked.count("certs")
        assert access.known_user(token) is not None, "no request waits for the new keys"
        until(lambda: issuer.asked.count("certs") > asked, 5)  # noqa: B023
        until(lambda: access._issuer and access._issuer._known and access._issuer._known.fetched == clock.now, 5)
    assert issuer.asked.count("certs") == 11


def test_many_unknown_keys_cause_few_requests_and_new_keys_are_found_soon(issuer: Issuer, clock: Clock) -> None:
    access = Access(ServerConfig(oidc_issuer=issuer.url), clock)
    assert access.user(issuer.token()) is not None
    flood = [issuer.token(f"other-{number}") for number in range(50)]
    for _ in range(10):
        clock.now += 10
        assert {access.user(token) for token in flood} == {None}
    assert issuer.asked.count("certs") <= 1 + 100 / 30
    issuer.says("certs", {"keys": [issuer.key("k1"), issuer.key("k2")]})
    began = clock.now
    while access.user(issuer.token("k2")) is None:
        clock.now += 1
        assert {access.user(token) for token in flood[:5]} == {None}
    assert clock.now - began <= 30


def test_tokens_with_unknown_keys_do_not_each_query_the_issuer(
    issuer: Issuer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).ok
    for number in range(20):
        assert requests.get(f"{url}/info/", headers=bearer(issuer.token(f"other-{number}"))).status_code == 401
    assert issuer.asked.count("certs") == 1
    monkeypatch.setattr(issuer_module, "_UNKNOWN_KEY_SECONDS", -1.0)
    issuer.says("certs", {"keys": [issuer.key("k2")]})
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token("k2"))).ok
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token("k1"))).status_code == 401


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b"{}", b"null", b"\xff" * 100, b"[" * 100_000, b'{"jwks_uri": 3}', b""])
def test_garbage_in_place_of_the_configuration_does_not_cause_error_500(issuer: Issuer, url: str, garbage: bytes) -> None:
    issuer.says("openid-configuration", garbage)
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).status_code == 503
    assert requests.post(f"{url}/login", {"password": "x"}).status_code == 503
    assert requests.post(f"{url}/auth/token", {"password": "x"}).status_code == 503


@pytest.mark.parametrize(
    "keys", [b"no", [], {}, {"keys": []}, {"keys": 3}, {"keys": [3]}, {"keys": [{"kty": "RSA", "kid": "k1"}]}]
)
def test_garbage_in_place_of_keys_does_not_cause_error_500(issuer: Issuer, url: str, keys: Any) -> None:
    issuer.says("certs", keys)
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).status_code == 503


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"access_token": 3}'])
def test_garbage_in_place_of_a_token_does_not_cause_error_500(issuer: Issuer, url: str, answer: bytes) -> None:
    issuer.says("token", answer)
    assert requests.post(f"{url}/login", {"password": "x"}).status_code == 503
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).ok


def test_tokens_are_verified_without_a_token_endpoint(issuer: Issuer, url: str) -> None:
    issuer.says("openid-configuration", {"jwks_uri": f"{issuer.url}/certs"})
    assert requests.post(f"{url}/auth/token", {"password": "x"}).status_code == 503
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).ok


def test_an_error_of_the_issuer_does_not_cause_error_500(issuer: Issuer, url: str) -> None:
    issuer.status = 500
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).status_code == 503


@pytest.mark.parametrize(
    "roles",
    [
        *(
            "superadministrator",
            "not-admin-at-all",
            "admin,reviewer",
            "Admin",
            "",
            5,
            0,
            1.5,
            True,
            None,
            {"admin": True},
            ["king"],
        ),
        *([["admin"]], "no-annotator", ["not-admin-at-all"], ["admin reviewer"], ["admin", 5], [None], {"roles": ["admin"]}),
    ],
)
def test_invalid_roles_are_refused(issuer: Issuer, url: str, roles: Any) -> None:
    token = issuer.token(realm_access={"roles": roles})
    assert requests.get(f"{url}/info/", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("roles", {"roles": "annotator offline_access admin"}),
        ("roles", {"roles": ["annotator", "admin"]}),
        ("resource_access.atlas.roles", {"resource_access": {"atlas": {"roles": ["admin"]}}}),
        ("https://annotate.example.org/roles", {"https://annotate.example.org/roles": ["admin"]}),
    ],
)
def test_roles_come_from_the_claim_in_the_setting(issuer: Issuer, path: str, claims: dict[str, Any]) -> None:
    access = Access(ServerConfig(oidc_issuer=issuer.url, oidc_roles=path))
    user = access.user(issuer.token(realm_access=None, **claims))
    assert user is not None
    assert user.role == "admin"


@pytest.mark.parametrize(
    "path", ["realm_access.roles.0", "preferred_username.roles", "exp.roles", ".", "", "realm_access..roles"]
)
def test_a_wrong_path_to_the_roles_gives_no_role(issuer: Issuer, path: str) -> None:
    assert Access(ServerConfig(oidc_issuer=issuer.url, oidc_roles=path)).user(issuer.token()) is None


@pytest.mark.parametrize("sub", [7, True, ["7"], {"a": 1}, "", " ", 300 * "7", "7\n", "a\u202eb"])
def test_a_token_with_an_invalid_subject_is_refused(issuer: Issuer, sub: Any) -> None:
    assert Access(ServerConfig(oidc_issuer=issuer.url)).user(issuer.token(sub=sub)) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("kim", "kim"),
        ("kim\r\nlee: signed off", "kim lee: signed off"),
        ("\u202ekim\u200b\x00", "kim"),
        (1000 * "k", 100 * "k"),
        (5, "7"),
        (["kim"], "7"),
        ("\x00", "7"),
        (None, "7"),
    ],
)
def test_a_name_is_shown_as_one_short_line(issuer: Issuer, name: Any, shown: str) -> None:
    user = Access(ServerConfig(oidc_issuer=issuer.url)).user(issuer.token(sub="7", preferred_username=name))
    assert user is not None
    assert (user.name, user.id) == (shown, f"oidc:{issuer.url}#7")


def test_users_with_the_same_name_have_different_ids(issuer: Issuer, tmp_path: Path) -> None:
    file = tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator"})
    access = Access(ServerConfig(oidc_issuer=issuer.url, tokens=str(file)))
    tokens = (token_of("kim"), issuer.token(sub="7"), issuer.token(sub="8"), issuer.token(), issuer.token(sub="kim"))
    people = [access.user(token) for token in tokens]
    assert {user.name for user in people if user} == {"kim"}
    assert len({user.id for user in people if user}) == 5


def test_a_slash_at_the_end_of_the_issuers_name_does_not_matter(issuer: Issuer) -> None:
    for url in (issuer.url, f"{issuer.url}/"):
        access = Access(ServerConfig(oidc_issuer=url))
        assert access.user(issuer.token(iss=f"{issuer.url}/")) is not None
        assert access.user(issuer.token(iss=f"{issuer.url}//")) is None


@pytest.mark.parametrize("exp", ["soon", "1e999", [], {}, True, None])
def test_a_token_with_an_invalid_expiry_is_refused(issuer: Issuer, exp: Any) -> None:
    assert Access(ServerConfig(oidc_issuer=issuer.url)).user(issuer.token(exp=exp)) is None
