"""Access control: every route requires a role, and only valid tokens of the token file or the issuer are accepted."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from json import dumps
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from starlette.testclient import TestClient

from medsam2_atlas.base.errors import InputError
from server.access import OPEN, ROLES, Access, role_for
from server.application import create_app
from server.config import ServerConfig, server_config
from token_files import bearer, token_of, tokens_for, write_tokens

PEOPLE = {"kim": "annotator", "lee": "reviewer", "max": "admin"}
FOR_ANNOTATORS = {
    "GET": "/ /figures /compare /compare/case /compare/picture /page/{file} /docs /openapi.json /info/ /auth/token/valid"
    " /ohif/{path:path} /proxy/dicom/{path:path} /review /worklist/cases /worklist/summary /worklist/picture /worklist/next"
    " /jobs /jobs/{name} /jobs/{name}/events /jobs/{name}/result /session/{session_id} /train/ /scoring/"
    " /batch/infer /batch/infer/progress /datastore/ /datastore/image /datastore/image/info /datastore/label"
    " /datastore/label/info"
    " /datastore/label/rtstruct /datastore/label/version /datastore/label/versions"
    " /annotation/case /annotation/label /annotation/compare /annotation/compare/label /worklist/figures",
    "POST": "/activelearning/{strategy} /infer/{model} /proxy/dicom/{path:path}"
    " /annotation/changes /annotation/submit /annotation/refine /worklist/claim /worklist/next",
    "PUT": "/annotation/draft /datastore/image/info /datastore/label /datastore/label/info /session/",
    "DELETE": "/annotation/draft /jobs/{name} /session/{session_id} /worklist/claim",
}
FOR_REVIEWERS = {
    "GET": "/datastore/dataset /metrics",
    "POST": "/datastore/label/accept /datastore/label/confirm /datastore/label/restore /datastore/label/return"
    " /scoring/{method} /worklist/assign",
    "DELETE": "/datastore/label",
}
"""All other routes are for admins."""


def here(app: Any, **options: Any) -> TestClient:
    """Returns a client on this machine; `options` can change that."""
    usual: dict[str, Any] = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000)}
    return TestClient(app, raise_server_exceptions=False, **(usual | options))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tokens_for(tmp_path / "tokens.yaml", PEOPLE)
    digest = hashlib.sha256(b"secret").hexdigest()
    return write_tokens(file, f"{file.read_text()}- {{name: robot, role: annotator, sha256: {digest}}}\n")


@pytest.fixture
def client(tokens: Path) -> TestClient:
    return here(create_app(ServerConfig(tokens=str(tokens))))


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Returns every method and path, and some paths that catch-all routes answer."""
    app: Any = client.app
    found = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    found |= set(added(app.routes))
    examples = [
        ("GET", "/ohif/"),
        ("GET", "/ohif/app.bundle.js"),
        ("GET", "/static/favicon.ico"),
        ("PUT", "/datastore/"),
        *((method, f"/proxy/dicom/{op}/studies") for method in ("GET", "POST") for op in ("wado", "qido", "stow")),
        ("GET", "/proxy/dicom/studies"),
    ]
    return sorted(found | set(examples))


def added(listed: Any) -> Iterator[tuple[str, str]]:
    """Yields method and path of all routes, including those that OpenAPI does not list."""
    for route in listed:
        if hasattr(route, "original_router"):  # FastAPI 0.13x keeps included routers as separate objects
            yield from added(route.original_router.routes)
        else:
            yield from ((method, route.path) for method in getattr(route, "methods", None) or ())


def test_only_open_routes_answer_without_a_login(client: TestClient) -> None:
    listed = routes(client)
    assert len(listed) > 40
    for method, path in listed:
        concrete = re.sub(r"\{[^}]+\}", "x", path)
        answer = client.request(method, concrete, follow_redirects=False)
        if (method, path) in OPEN:
            assert answer.status_code not in (403, 500), path
        else:
            assert answer.status_code == 401, (method, path)
            assert client.request(method, concrete, headers=bearer("guessed")).status_code in (401, 429)
    assert client.get("/openapi.json", headers=bearer(token_of("kim"))).status_code == 200


def test_every_route_requires_its_role(client: TestClient) -> None:
    for method, path in routes(client):
        concrete = re.sub(r"\{[^}]+\}", "x", path)
        needed = role_for(method, concrete)
        for name, role in PEOPLE.items():
            if needed and ROLES.index(role) < ROLES.index(needed):
                answer = client.request(method, concrete, headers=bearer(token_of(name)))
                assert answer.status_code == 403, (method, path, role)
                assert needed in answer.json()["detail"]


def test_each_route_has_the_role_that_is_listed_here(client: TestClient) -> None:
    app: Any = client.app
    listed = {(method, path) for method, path in added(app.routes) if method != "HEAD"}
    found: dict[str, set[str]] = {role: set() for role in ("", *ROLES)}
    for method, path in listed:
        found[role_for(method, re.sub(r"\{[^}]+\}", "x", path))].add(f"{method} {path}")
    assert found[""] == {f"{method} {path}" for method, path in OPEN}
    assert found["annotator"] == {f"{method} {path}" for method, paths in FOR_ANNOTATORS.items() for path in paths.split()}
    assert found["reviewer"] == {f"{method} {path}" for method, paths in FOR_REVIEWERS.items() for path in paths.split()}


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/info/", "annotator"),
        ("POST", "/infer/medsam2_atlas", "annotator"),
        ("PUT", "/datastore/label", "annotator"),
        ("GET", "/proxy/dicom/qido/studies", "annotator"),
        ("DELETE", "/jobs/x", "annotator"),
        ("POST", "/datastore/label/restore", "reviewer"),
        ("POST", "/datastore/label/confirm", "reviewer"),
        ("POST", "/datastore/label/accept", "reviewer"),
        ("POST", "/datastore/label/return", "reviewer"),
        ("POST", "/worklist/assign", "reviewer"),
        ("DELETE", "/worklist/claim", "annotator"),
        ("DELETE", "/datastore/label", "reviewer"),
        ("PUT", "/datastore/image", "admin"),
        ("PUT", "/datastore/", "admin"),
        ("DELETE", "/datastore/image", "admin"),
        ("POST", "/train/unet_3d", "admin"),
        ("PUT", "/model/unet_3d", "admin"),
        ("GET", "/model/unet_3d", "admin"),
        ("GET", "/logs/", "admin"),
        ("GET", "/unknown/path", "admin"),
        ("POST", "/ohif/", "admin"),
        ("GET", "/healthz", ""),
        ("GET", "/logout", ""),
        ("POST", "/logout", ""),
        ("PUT", "/logout", "admin"),
        ("GET", "/logout/", "admin"),
    ],
)
def test_each_method_and_path_has_its_role(method: str, path: str, role: str) -> None:
    assert role_for(method, path) == role


def test_tokens_can_be_kept_as_checksums(client: TestClient) -> None:
    assert client.get("/auth/token/valid", headers=bearer("secret")).status_code == 200
    assert client.get("/auth/token/valid", headers=bearer(hashlib.sha256(b"secret").hexdigest())).status_code == 401


def test_browsers_log_in_by_a_page_and_foreign_pages_cannot_use_the_login(client: TestClient) -> None:
    page = client.get("/ohif/", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "../login?next=%2Fohif%2F")
    assert client.post("/login", data={"password": "wrong"}).status_code == 401
    answer = client.post("/login", data={"password": token_of("kim")}, follow_redirects=False)
    assert answer.headers["location"] == "./"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/auth/token/valid").status_code == 200
    own, foreign = {"Origin": "http://127.0.0.1"}, {"Origin": "https://elsewhere.example"}
    assert client.delete("/jobs/x", headers=own).status_code == 404
    assert client.delete("/jobs/x", headers=foreign).status_code == 403


def test_viewers_that_ask_for_a_name_and_a_password_get_a_token(client: TestClient) -> None:
    assert client.get("/auth/").json()["enabled"] is True
    token = client.post("/auth/token", data={"username": "kim", "password": token_of("kim")}).json()
    assert client.get("/auth/token/valid", headers=bearer(token["access_token"])).status_code == 200
    assert client.post("/auth/token", data={"username": "kim", "password": "x"}).status_code == 401


def test_a_server_without_logins_answers_only_its_own_machine() -> None:
    app = create_app(ServerConfig())
    assert here(app).get("/healthz").status_code == 200
    outside = here(app, client=("10.0.0.7", 50000))
    answer = outside.get("/healthz")
    assert answer.status_code == 403
    assert "tokens" in answer.json()["error"]["remedy"]
    assert here(app, base_url="http://rebound.example").get("/healthz").status_code == 403
    known = create_app(ServerConfig(hosts=("annotate.example",)))
    assert here(known, base_url="http://annotate.example").get("/healthz").status_code == 200


def test_only_listed_origins_may_call(tokens: Path) -> None:
    app = create_app(ServerConfig(tokens=str(tokens), origins=("https://viewer.example",)))
    client = here(app)
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Authorization"}
    good = client.options("/info/", headers={"Origin": "https://viewer.example", **asked})
    assert good.headers["access-control-allow-origin"] == "https://viewer.example"
    bad = client.options("/info/", headers={"Origin": "https://elsewhere.example", **asked})
    assert "access-control-allow-origin" not in bad.headers


@pytest.mark.parametrize(
    "text",
    [
        *("", "- kim", "- {name: kim, role: annotator}", "- {name: kim, role: king, token: x}", "{", "- {name: a, token: x}"),
        "- {name: kim, role: admin, token: }",  # would accept the token `None`
        "- {name: kim, role: admin, token: ''}",
        "- {name: kim, role: admin, sha256: é}",
        "- {name: kim, role: admin, token: [" + 40 * "x" + "]}",
        "- {name: kim, role: [admin], token: " + 40 * "x" + "}",
    ],
)
def test_unusable_token_files_are_refused(tmp_path: Path, text: str) -> None:
    write_tokens(tmp_path / "tokens.yaml", text)
    with pytest.raises(InputError):
        Access(ServerConfig(tokens=str(tmp_path / "tokens.yaml")))


def test_settings_come_from_the_file_and_the_command_line() -> None:
    config = server_config({"atlas": "x", "server_queue": "3", "server_origins": "https://a.example, https://b.example"})
    assert (config.queue, config.origins) == (3, ("https://a.example", "https://b.example"))
    assert not config.login_required
    with pytest.raises(InputError, match="nonsense"):
        server_config({"server_nonsense": "1"})
    assert server_config({"server_roots": "/data/cts,/mnt/more"}).roots == ("/data/cts", "/mnt/more")
    for key, value in (("roots", "data/cts"), ("oidc_issuer", "login.example.org/realms/x"), ("queue", "none")):
        with pytest.raises(InputError, match=f"{key}"):
            server_config({f"server_{key}": value})


class Issuer:
    """An OpenID Connect issuer like Keycloak: discovery, keys, and tokens for passwords."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(issuer.discovery() if "well-known" in self.path else issuer.keys())

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if "password=right" in form:
                    self.reply({"access_token": issuer.token()})
                else:
                    self.send_error(401)

            def reply(self, content: Any) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(dumps(content).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/realms/imaging"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def discovery(self) -> dict[str, str]:
        return {"jwks_uri": f"{self.url}/certs", "token_endpoint": f"{self.url}/token"}

    def keys(self) -> dict[str, Any]:
        key = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": "k1", "use": "sig", "alg": "RS256"}]}

    def token(self, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": "medsam2-atlas",
            "exp": time.time() + 300,
            "preferred_username": "kim",
            "realm_access": {"roles": ["annotator", "reviewer", "offline_access"]},
        }
        claims = {k: v for k, v in (claims | changes).items() if v is not None}
        signing = None if algorithm == "none" else key or self.key
        return jwt.encode(claims, signing, algorithm, headers={"kid": "k1"})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.server.shutdown()


def test_tokens_of_an_issuer_are_verified(issuer: Issuer) -> None:
    access = Access(ServerConfig(oidc_issuer=issuer.url))
    user = access.user(issuer.token())
    assert user is not None
    assert (user.name, user.role) == ("kim", "reviewer")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrong = {
        "signed by another": issuer.token(other),
        "for another": issuer.token(aud="elsewhere"),
        "by another": issuer.token(iss="https://elsewhere.example"),
        "old": issuer.token(exp=time.time() - 3600),
        "without end": issuer.token(exp=None),
        "without role": issuer.token(realm_access={"roles": ["offline_access"]}),
        "without roles": issuer.token(realm_access=None),
        "unsigned": issuer.token(algorithm="none"),
        "signed by a text": issuer.token("k1" * 20, "HS256"),
        "cut": issuer.token()[:-20],
        "garbage": "a.b.c",
    }
    assert {what: access.user(token) for what, token in wrong.items()} == dict.fromkeys(wrong)


def test_the_issuer_checks_passwords(issuer: Issuer) -> None:
    client = here(create_app(ServerConfig(oidc_issuer=issuer.url)))
    token = client.post("/auth/token", data={"username": "kim", "password": "right"}).json()["access_token"]
    assert client.get("/auth/token/valid", headers=bearer(token)).status_code == 200
    assert client.post("/auth/token", data={"username": "kim", "password": "wrong"}).status_code == 401


def test_nobody_can_log_in_while_the_issuer_is_unreachable() -> None:
    client = here(create_app(ServerConfig(oidc_issuer="http://127.0.0.1:9/none")))
    answer = client.get("/info/", headers=bearer("a.b.c"))
    assert answer.status_code == 503
    assert "issuer" in answer.json()["detail"]
