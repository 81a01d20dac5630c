"""Logins of browsers: cookies contain no token and expire; wrong logins have to wait; logins return to own pages only."""

from __future__ import annotations

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from server.access import Access, User
from server.application import create_app
from server.config import ServerConfig
from server.issuer import IssuerError
from server.logins import Logins, Proof
from server.own_pages import own_page
from server.wrong_logins import TooManyWrongError, WrongLogins, client_address
from token_files import bearer, token_of, tokens_for
from waiting import Clock

FORM = {"username": "kim", "password": token_of("kim")}
KIM = User("kim", "annotator", "token:kim")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tokens_for(tmp_path_factory.mktemp("tokens") / "tokens.yaml", {"kim": "annotator", "lee": "admin"})
    return create_app(ServerConfig(tokens=str(file)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "admin"})


@pytest.fixture
def client(app: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Returns a client of a server with fresh users and logins."""
    fresh_access(app, ServerConfig(tokens=str(file)), monkeypatch)
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000), follow_redirects=False)


def fresh_access(app: Any, config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    access = Access(config, clock)
    current: Access = app.state.access  # the middleware uses the same object
    monkeypatch.setattr(current, "__dict__", access.__dict__)
    return clock


def from_address(client: TestClient, host: str) -> TestClient:
    return TestClient(client.app, base_url="http://127.0.0.1", client=(host, 50000), follow_redirects=False)


def logged_in(client: TestClient, **headers: str) -> bool:
    return client.get("/auth/token/valid", headers=headers).status_code == 200


def test_a_cookie_contains_no_token(client: TestClient) -> None:
    answer = client.post("/login", data=FORM)
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert (answer.status_code, logged_in(client)) == (303, True)
    assert len(cookie.value) >= 43
    for secret in (token_of("kim"), hashlib.sha256(token_of("kim").encode()).hexdigest()):
        assert secret not in answer.headers["set-cookie"]
    assert not logged_in(client, **bearer(cookie.value))
    client.cookies.clear()
    assert not logged_in(client, Cookie=f"{cookie.key}={token_of('kim')}")


def test_each_login_gets_a_new_cookie_and_ends_the_previous_login(client: TestClient) -> None:
    client.post("/login", data=FORM)
    (first,) = client.cookies.items()
    client.post("/login", data=FORM)
    (second,) = client.cookies.items()
    assert first[1] != second[1]
    client.cookies.clear()
    assert not logged_in(client, Cookie="=".join(first))
    assert logged_in(client, Cookie="=".join(second))


def test_a_cookie_from_before_the_login_is_not_used(client: TestClient) -> None:
    name = "medsam2_atlas"
    client.cookies.set(name, "chosen-by-somebody-else", domain="127.0.0.1")
    client.post("/login", data=FORM)
    client.cookies.clear()
    assert not logged_in(client, Cookie=f"{name}=chosen-by-somebody-else")


def test_a_stolen_cookie_is_useless_after_the_logout(client: TestClient) -> None:
    client.post("/login", data=FORM)
    (cookie,) = client.cookies.items()
    assert "Log out" in client.get("/login").text
    assert "You are logged in as kim." in client.get("/logout").text
    assert logged_in(client), "viewing a page or following a link is not a logout"
    out = client.post("/logout")
    assert (out.status_code, out.headers["location"]) == (303, "./login")
    assert not client.cookies
    assert not logged_in(client, Cookie="=".join(cookie))
    assert "You are not logged in." in client.get("/logout").text
    assert client.post("/logout").status_code == 303


def test_a_logout_makes_the_browser_forget_the_pictures(client: TestClient) -> None:
    client.post("/login", data=FORM)
    assert client.post("/logout").headers["clear-site-data"] == '"cache"'
    assert "clear-site-data" not in client.get("/logout").headers


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "null", "http://127.0.0.1.elsewhere.example", "http://127.0.0.1:81"]
)
def test_pages_of_other_sites_cannot_log_a_browser_in_or_out(client: TestClient, origin: str) -> None:
    assert client.post("/login", data=FORM, headers={"Origin": origin}).status_code == 403
    assert client.post("/auth/token", data=FORM, headers={"Origin": origin}).status_code == 403
    assert not client.cookies
    client.post("/login", data=FORM, headers={"Origin": "http://127.0.0.1"})
    assert client.post("/logout", headers={"Origin": origin}).status_code == 403
    assert logged_in(client)


def test_a_login_expires(app: Any, file: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = fresh_access(app, ServerConfig(tokens=str(file), login_hours=24, login_idle_hours=8), monkeypatch)
    client.post("/login", data=FORM)
    for hours in (7, 14, 21, 23.9):
        clock.now = 1000 + 3600 * hours
        assert logged_in(client), hours
    clock.now = 1000 + 3600 * 24.1
    assert not logged_in(client), "it ends 24 hours after it began"
    client.post("/login", data=FORM)
    clock.now += 3600 * 8.1
    assert not logged_in(client), "it ends after 8 hours without a request"


def test_the_logins_of_a_user_removed_from_the_file_end(
    app: Any, file: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = fresh_access(app, ServerConfig(tokens=str(file)), monkeypatch)
    client.post("/login", data=FORM)
    tokens_for(file, {"kim": "reviewer", "lee": "admin"})
    clock.now += 2
    assert client.get("/metrics").status_code == 200, "a new role applies at once"
    tokens_for(file, {"lee": "admin"})
    clock.now += 2
    assert not logged_in(client)


def test_a_login_ends_when_its_token_expires() -> None:
    clock, wall = Clock(), Clock(100.0)
    logins = Logins(seconds=1000, idle=1000, clock=clock, wall_clock=wall)
    key = logins.begin(Proof(KIM, ends=200.0))
    wall.now = 199.0
    assert logins.find(key) is not None
    wall.now = 200.0
    assert logins.find(key) is None


def test_logins_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = Logins(seconds=1000, idle=1000)
    lees = logins.begin(Proof(User("lee", "admin", "token:lee")))
    keys = [logins.begin(Proof(KIM)) for _ in range(30)]
    assert [logins.find(key) is not None for key in keys] == 10 * [False] + 20 * [True]
    assert logins.find(lees) is not None
    monkeypatch.setattr("server.logins._KEPT", 25)
    for number in range(30):
        logins.begin(Proof(User("x", "annotator", f"oidc:x#{number}")))
    assert len(logins) == 25


def test_a_login_by_password_outlives_the_issuers_token_but_a_login_by_token_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access = Access(ServerConfig(oidc_issuer="https://login.example"))
    end = time.time() + 300
    claims = {"exp": end, "sub": "7", "preferred_username": "kim", "realm_access": {"roles": ["annotator"]}}
    monkeypatch.setattr(access._issuer, "known_claims", lambda token: claims if token == "a.b.c" else None)
    monkeypatch.setattr(access._issuer, "claims", lambda token: None)
    monkeypatch.setattr(access._issuer, "token", lambda name, password: "a.b.c" if password == "right" else "")
    user = User("kim", "annotator", "oidc:https://login.example#7")
    assert access.sign_in("kim", "a.b.c", "address") == ("a.b.c", Proof(user, ends=end))
    assert access.sign_in("kim", "right", "address") == ("a.b.c", Proof(user))
    assert access.sign_in("kim", "wrong", "address") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "evil", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example"),
        *(
            "https:evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/a\n/b",
            "/\r\nSet-Cookie: a=b",
            "/%2f%2fevil.example",
        ),
        *(
            "/%5cevil.example",
            "/../other",
            "/ohif/../../other",
            "/%2e%2e/other",
            "/ohif/%2E%2e/%2e./x",
            "/a//b",
            "/login?next=/x",
        ),
        *("/logout", "/auth/token/valid", " /review", "/review#x", "/ü", "/" + 3000 * "x", "/review\x00", "/@evil.example\\"),
    ],
)
def test_a_login_never_redirects_to_another_site(client: TestClient, text: str) -> None:
    assert own_page(text) == ""
    answer = client.post("/login", data=FORM | {"next": text})
    assert urljoin("http://127.0.0.1/login", answer.headers["location"]) == "http://127.0.0.1/"
    client.cookies.clear()
    form = client.get("/login", params={"next": text}).text
    assert 'name="next" value=""' in form
    assert "evil" not in form


@pytest.mark.parametrize(
    "page",
    [
        "/figures",
        "/?state=in+work&page=2",
        "/review?q=a",
        "/ohif/viewer?StudyInstanceUIDs=1.2&x=%2F",
        "/worklist/picture?study=a%20b",
    ],
)
def test_a_login_returns_to_the_requested_page(client: TestClient, page: str) -> None:
    asked = client.get(page, headers={"Accept": "text/html"})
    form = client.get(urljoin(f"http://127.0.0.1{page}", asked.headers["location"])).text
    hidden = re.search(r'name="next" value="([^"]*)"', form)
    assert hidden is not None
    next_page = hidden[1].replace("&amp;", "&")
    for password in ("wrong", token_of("kim")):
        answer = client.post("/login", data={"password": password, "next": next_page})
    assert urljoin("http://127.0.0.1/login", answer.headers["location"]) == f"http://127.0.0.1{page}"


def test_typed_text_is_escaped_in_the_page(client: TestClient) -> None:
    typed = '"><script>alert(1)</script>$problem{name}'
    answer = client.post("/login", data={"username": typed, "password": "x", "next": f"/review?{typed}"})
    assert (answer.status_code, "<script>" in answer.text) == (401, False)
    assert "Name, token or password is wrong." in answer.text
    assert 'value="&quot;&gt;&lt;script&gt;' in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_login_messages_are_plain(client: TestClient, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = client.post("/login", data={"username": "kim"})
    assert (empty.status_code, "Type your token or password." in empty.text) == (422, True)

    async def silent(*_: object) -> None:
        raise IssuerError("issuer", "does not answer.", "Try again later.")

    monkeypatch.setattr(app.state.access, "with_issuer", silent)
    for _ in range(25):  # the logins were not wrong, so nobody has to wait
        answer = client.post("/login", data={"password": "x"})
        assert (answer.status_code, "The login service does not answer" in answer.text) == (503, True)
    assert json.loads(client.post("/auth/token", data={"password": "x"}).text)["error"]["status"] == 503


def test_unused_form_fields_do_not_fill_the_memory(client: TestClient) -> None:
    fields = {f"more-{number}": (None, b"x") for number in range(8)}
    assert client.post("/auth/token", files={"password": (None, b"x"), **fields}).status_code == 413


@pytest.mark.parametrize("path", ["/login", "/auth/token"])
def test_users_who_are_not_logged_in_cannot_keep_files_open(client: TestClient, path: str) -> None:
    answer = client.post(path, data={"username": "kim"}, files={"password": ("a", b"x" * 20_000)})
    assert answer.status_code == 413
    assert "Too many files" in answer.json()["detail"]


def test_only_the_address_with_wrong_logins_has_to_wait(
    client: TestClient, app: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = fresh_access(app, ServerConfig(tokens=str(file)), monkeypatch)
    asked: list[str] = []
    monkeypatch.setattr(app.state.access, "proof", asked.append)
    known = from_address(client, "198.51.100.7")
    known.post("/login", data=FORM)
    guesser = from_address(client, "198.51.100.7")
    answers = [guesser.post(path, data={"password": f"guess {n}"}) for n in range(30) for path in ("/login", "/auth/token")]
    assert [answer.status_code for answer in answers] == 20 * [401] + 40 * [429]
    assert len(asked) == 20, "a login that must wait is not checked"
    assert answers[-2].headers["retry-after"] == "60"
    assert "Too many wrong logins from this address. Try again in 60 s." in answers[-2].text
    assert guesser.get("/info/", headers=bearer("guessed")).status_code == 429
    assert logged_in(known), "an existing login stays valid"
    assert from_address(client, "198.51.100.7").post("/login", data=FORM).status_code == 303, "nobody is locked out"
    assert logged_in(guesser, **bearer(token_of("lee"))), "a good token is answered"
    assert from_address(client, "198.51.100.8").post("/login", data=FORM).status_code == 303
    clock.now += 61
    assert guesser.post("/login", data={"password": "guess"}).status_code == 401


def test_simultaneous_logins_cannot_evade_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(ServerConfig(oidc_issuer="https://login.example"))
    asked: list[str] = []

    def slow(name: str, password: str) -> str:
        asked.append(password)
        time.sleep(0.02)
        return ""

    monkeypatch.setattr(access._issuer, "token", slow)

    def try_one(number: int) -> bool:
        try:
            return access.sign_in("kim", f"guess {number}", "address") is not None
        except TooManyWrongError:
            return False

    with ThreadPoolExecutor(30) as people:
        assert not any(people.map(try_one, range(60)))
    assert len(asked) == 20


def test_wrong_tokens_have_to_wait_but_expired_logins_do_not(client: TestClient) -> None:
    viewer, guesser = from_address(client, "198.51.100.7"), from_address(client, "198.51.100.9")
    assert {viewer.get("/info/", headers={"Cookie": "medsam2_atlas=ended"}).status_code for _ in range(50)} == {401}
    assert viewer.post("/login", data=FORM).status_code == 303
    answers = [guesser.get("/info/", headers=bearer(f"guess-{n}")).status_code for n in range(25)]
    assert answers == 20 * [401] + 5 * [429]


def test_correct_logins_do_not_count(client: TestClient) -> None:
    assert {client.post("/auth/token", data=FORM).status_code for _ in range(50)} == {200}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:198.51.100.7", "198.51.100.7", True),
        ("198.51.100.7", "198.51.100.8", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("no address", "no address", True),
    ],
)
def test_ipv6_addresses_of_one_customer_count_as_one_address(one: str, other: str, same: bool) -> None:
    addresses = [client_address({"type": "http", "client": (host, 1)}) for host in (one, other)]
    assert (addresses[0] == addresses[1]) == same
    assert client_address({"type": "http", "client": None}) == ""


def test_many_addresses_need_little_memory() -> None:
    wrong = WrongLogins(Clock(), max_addresses=100)
    for number in range(1000):
        wrong.begin(f"address {number}")
    assert len(wrong) == 100
    for _ in range(20):
        wrong.begin("guesser")
    with pytest.raises(TooManyWrongError, match="Try again in 60 s"):
        wrong.begin("guesser")
    wrong.forgive("address 1")  # it has been dropped before
