"""Who may do what.

Three roles, each with the rights of those before it: `annotator` (look, run models, save labels), `reviewer` (restore and
remove labels, score), `admin` (images, training, weights, logs). Every route needs a role; a route that is not listed
needs `admin`.

Without tokens and issuer the server answers this machine only: other addresses, and names that a web page could point at
this machine, are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2_atlas.errors import InputError
from server import errors
from server.config import ServerConfig, tokens_of
from server.issuer import Issuer, IssuerError
from server.people import LOCAL, NOBODY, ROLES, User, user_of_claims
from server.root_path import cookie_name, path_of

__all__ = ["LOCAL", "OPEN", "ROLES", "Access", "AccessMiddleware", "User", "role_for", "user_of"]

T = TypeVar("T")

OPEN = frozenset(
    {
        *(("GET", path) for path in ("/healthz", "/readyz", "/login", "/auth/")),
        *(("POST", path) for path in ("/login", "/auth/token")),
    }
)
"""Routes that need no role: health, readiness and login. They never query the issuer."""

_HERE = frozenset({"127.0.0.1", "::1", "localhost"})
_ISSUER_SECONDS = 8.0
_ISSUER_THREADS = 8
_READ = ("GET", "HEAD")
_RULES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (_READ, r"/(|docs|openapi\.json|favicon\.ico)", "annotator"),
    (_READ, r"/(static|ohif)(/.*)?", "annotator"),
    (_READ, r"/(info|auth/token/valid)/?", "annotator"),
    (("GET", "POST"), r"/proxy/dicom/.*", "annotator"),
    (("GET",), r"/review(/cases|/picture)?", "annotator"),
    (("POST",), r"/infer/[^/]+", "annotator"),
    (("GET", "DELETE"), r"/jobs(/[^/]+(/(events|result))?)?", "annotator"),
    (("POST",), r"/activelearning/[^/]+", "annotator"),
    (("GET",), r"/(train|batch/infer|scoring)/?", "annotator"),
    (("GET", "PUT", "DELETE"), r"/session(/[^/]*)?", "annotator"),
    (_READ, r"/datastore/?", "annotator"),
    (_READ, r"/datastore/(image|label)(/(info|versions|version|rtstruct))?", "annotator"),
    (("PUT",), r"/datastore/(label|label/info|image/info)", "annotator"),
    (("POST",), r"/datastore/label/(restore|confirm|accept)", "reviewer"),
    (("DELETE",), r"/datastore/label", "reviewer"),
    (("POST",), r"/scoring(/[^/]*)?", "reviewer"),
    (("GET",), r"/(datastore/dataset|metrics)", "reviewer"),
)


def role_for(method: str, path: str) -> str:
    """The role that a request needs; empty for the open ones."""
    if (method, path) in OPEN:
        return ""
    return next((role for methods, pattern, role in _RULES if method in methods and re.fullmatch(pattern, path)), "admin")


def user_of(request: Request) -> User:
    """Who asks."""
    user: User = request.scope["medsam2_atlas.user"]
    return user


class Access:
    """Tells people by their tokens."""

    def __init__(self, config: ServerConfig) -> None:
        """
        Raises:
            InputError: a file of tokens that cannot be used.
        """
        self._config = config
        self._issuer = Issuer(config) if config.oidc_issuer else None
        self._tokens: dict[str, User] = {}
        for entry in tokens_of(Path(config.tokens)) if config.tokens else []:
            if entry["role"] not in ROLES:
                raise InputError(config.tokens, f"has the role {entry['role']!r}.", f"Choose from: {', '.join(ROLES)}.")
            digest = entry.get("sha256") or hashlib.sha256(entry["token"].encode()).hexdigest()
            self._tokens[digest.lower()] = User(entry["name"], entry["role"], f"token:{entry['name']}")

    @property
    def asks_who(self) -> bool:
        """Whether anybody has to log in."""
        return self._config.asks_who

    def needs_issuer(self, token: str) -> bool:
        """Returns whether a token that `who_now` does not know may be one of the issuer."""
        return self._issuer is not None and _signed(token)

    def who_now(self, token: str) -> User | None:
        """Returns the person of a token, without waiting; None for an unknown token, or if the issuer must be queried."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        for known, user in self._tokens.items():
            if hmac.compare_digest(known, digest):
                return user
        claims = self._issuer.claims_now(token) if self._issuer and _signed(token) else None
        return None if claims is None else user_of_claims(claims, self._config)

    def who(self, token: str) -> User | None:
        """Returns the person of a token; None if it is nobody's, or has expired. May wait for the issuer for a few seconds.

        Raises:
            IssuerError: the issuer's keys are not known yet, and cannot be fetched.
        """
        user = self.who_now(token)
        if user is not None or not self._issuer or not _signed(token):
            return user
        claims = self._issuer.claims(token)
        return None if claims is None else user_of_claims(claims, self._config)

    def sign_in(self, name: str, secret: str) -> str:
        """Returns the token of a name and a secret: a token itself, or a password that the issuer takes; empty if it is wrong.

        Raises:
            IssuerError: the issuer cannot be asked.
        """
        if self.who(secret) is not None:
            return secret
        token = self._issuer.token(name, secret) if self._issuer else ""
        return token if token and self.who(token) is not None else ""

    async def asked(self, question: Callable[..., T], *arguments: str) -> T:
        """Returns what `who` or `sign_in` returns, which may wait for the issuer, asked in a few threads of their own.

        Raises:
            IssuerError: the issuer does not answer.
        """
        try:
            with anyio.fail_after(_ISSUER_SECONDS):
                return await to_thread.run_sync(question, *arguments, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise IssuerError("issuer", f"{self._config.oidc_issuer} does not answer.", "Try again later.") from error

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(_ISSUER_THREADS)  # needs a running event loop


def _signed(token: str) -> bool:
    """Returns whether a token looks like one of an issuer."""
    return token.count(".") == 2


class AccessMiddleware:
    """Lets a request through if who asks may do what is asked."""

    def __init__(self, app: ASGIApp, access: Access, config: ServerConfig) -> None:
        self._app, self._access = app, access
        self._hosts, self._origins = _HERE | set(config.hosts), frozenset(config.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "websocket":  # there is none here
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        needed = role_for(scope["method"], path_of(scope))
        if not self._access.asks_who:
            refusal = self._refused_elsewhere(scope, headers)
        else:
            token, by_cookie = _token(scope, headers)
            user = self._access.who_now(token) if token else None
            try:
                if user is None and needed and scope["method"] != "OPTIONS" and self._access.needs_issuer(token):
                    user = await self._access.asked(self._access.who, token)
                refusal = self._refused(scope, headers, needed, user, by_cookie)
            except IssuerError as error:
                refusal = errors.from_error(error)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers, needed: str, user: User | None, by_cookie: bool) -> Any:
        scope["medsam2_atlas.user"] = user or NOBODY
        if not needed or scope["method"] == "OPTIONS":
            return None
        if user is None:
            told = {"WWW-Authenticate": "Bearer"}
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return errors.respond(303, "Log in first.", headers={"Location": "/login"})
            return errors.respond(401, "Who are you?", "Send a token: Authorization: Bearer TOKEN.", headers=told)
        if by_cookie and self._foreign(scope, headers):
            return errors.respond(403, "The request came from a page of another site.")
        if not user.may(needed):
            return errors.respond(403, f"This needs the role {needed}; {user.name} has {user.role}.")
        return None

    def _refused_elsewhere(self, scope: Scope, headers: Headers) -> Any:
        """Where nobody logs in, only this machine is answered, and only by its own names."""
        scope["medsam2_atlas.user"] = LOCAL
        client, host = (scope.get("client") or ("", 0))[0], _host_name(headers.get("host", ""))
        remedy = "Start the server with tokens or an OIDC issuer; see docs/server.md."
        if client not in _HERE:
            return errors.respond(403, f"Without a login this server answers its own machine only, not {client}.", remedy)
        if host not in self._hosts:
            return errors.respond(403, f"This server is not known as {host[:100]}.", "Name it: --conf server_hosts=NAME.")
        if self._foreign(scope, headers):
            return errors.respond(403, "The request came from a page of another site.")
        return None

    def _foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether a page of another site has made a browser ask for a change."""
        origin = headers.get("origin", "")
        own = not origin or origin.partition("://")[2] == headers.get("host", "") or origin in self._origins
        return scope["method"] not in (*_READ, "OPTIONS") and not own


def _token(scope: Scope, headers: Headers) -> tuple[str, bool]:
    """The token of a request, and whether it came by cookie, that is, from a browser without a script's doing."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip(), False
    request = Request(scope)
    return request.cookies.get(cookie_name(request), ""), True


def _host_name(host: str) -> str:
    """The name in a Host header, without port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
