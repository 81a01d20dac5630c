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

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """An issuer whose answers tests set: bytes, or None to hang."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[], bytes | None]] = {}
        self.status = 200
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
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
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
def url(issuer: Issuer, tmp_path: Path) -> Iterator[str]:
    """Yields a server with the login of this project, and a few routes."""
    tokens_for(tmp_path / "tokens.yaml", {"lee": "admin"})
    config = ServerConfig(oidc_issuer=issuer.url, tokens=str(tmp_path / "tokens.yaml"))
    access = Access(config)
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


def test_known_keys_stay_valid_while_the_issuer_hangs(issuer: Issuer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).json() == "kim"
    asked = len(issuer.asked)
    assert requests.get(f"{url}/info/", headers=bearer(issuer.token())).ok
    assert len(issuer.asked) == asked
    issuer.hangs()
    monkeypatch.setattr(issuer_module, "_REFRESH_SECONDS", -1.0)
    monkeypatch.setattr(issuer_module, "_UNKNOWN_KEY_SECONDS", -1.0)
    for _ in range(5):
        assert timed(lambda: requests.get(f"{url}/info/", headers=bearer(issuer.token()))) < (200, 1.0)


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


@pytest.mark.parametrize("roles", ["superadministrator", 5, {"admin": True}, None, ["king"], [["admin"]], "no-annotator"])
def test_invalid_roles_are_refused(issuer: Issuer, url: str, roles: Any) -> None:
    token = issuer.token(realm_access={"roles": roles})
    assert requests.get(f"{url}/info/", headers=bearer(token)).status_code == 401
