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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import jwt
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2_atlas.errors import InputError, MedSAM2AtlasError
from server import errors
from server.config import ServerConfig, tokens_of

ROLES = ("annotator", "reviewer", "admin")
COOKIE = "medsam2_atlas"
OPEN = frozenset({("GET", "/healthz"), ("GET", "/login"), ("POST", "/login"), ("GET", "/auth/"), ("POST", "/auth/token")})
"""Routes that need no role: they tell nothing but that the server lives, and let people in."""

_HERE = frozenset({"127.0.0.1", "::1", "localhost"})
_ISSUER_SECONDS = 10
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
    (("POST",), r"/datastore/label/restore", "reviewer"),
    (("DELETE",), r"/datastore/label", "reviewer"),
    (("POST",), r"/scoring(/[^/]*)?", "reviewer"),
    (("GET",), r"/(datastore/dataset|metrics)", "reviewer"),
)


@dataclass(frozen=True)
class User:
    """Who asks. name: for records; empty where nobody has to log in."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether the user has a role's rights."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = User("", "admin")
"""Whoever sits at the machine, where nobody has to log in."""


def role_for(method: str, path: str) -> str:
    """The role that a request needs; empty for the open ones."""
    if (method, path) in OPEN:
        return ""
    return next((role for methods, pattern, role in _RULES if method in methods and re.fullmatch(pattern, path)), "admin")


def user_of(request: Request) -> User:
    """Who asks."""
    user: User = request.scope["medsam2_atlas.user"]
    return user


class IssuerError(MedSAM2AtlasError):
    """The issuer that vouches for people cannot be asked."""

    def __init__(self, issuer: str, error: Exception) -> None:
        super().__init__("issuer", f"{issuer} cannot be reached ({error}).", "Try again later, or tell an admin.")


class Access:
    """Tells people by their tokens."""

    def __init__(self, config: ServerConfig) -> None:
        """
        Raises:
            InputError: a file of tokens that cannot be used.
        """
        self._config = config
        self._tokens: dict[str, User] = {}
        for entry in tokens_of(Path(config.tokens)) if config.tokens else []:
            if entry["role"] not in ROLES:
                raise InputError(config.tokens, f"has the role {entry['role']!r}.", f"Choose from: {', '.join(ROLES)}.")
            digest = entry.get("sha256") or hashlib.sha256(entry["token"].encode()).hexdigest()
            self._tokens[digest.lower()] = User(entry["name"], entry["role"])

    @property
    def asks_who(self) -> bool:
        """Whether anybody has to log in."""
        return self._config.asks_who

    @property
    def asks_issuer(self) -> bool:
        """Whether an issuer vouches for people, too."""
        return bool(self._config.oidc_issuer)

    def who(self, token: str) -> User | None:
        """The person that a token is of; None where it is of nobody, or has expired.

        Raises:
            IssuerError: the issuer's keys are not known yet, and cannot be fetched.
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        for known, user in self._tokens.items():
            if hmac.compare_digest(known, digest):
                return user
        return self._by_issuer(token) if self._config.oidc_issuer and token.count(".") == 2 else None

    def sign_in(self, name: str, secret: str) -> str:
        """The token of a name and a secret: a token itself, or a password that the issuer takes; empty where it is wrong.

        Raises:
            IssuerError: the issuer cannot be asked.
        """
        if self.who(secret) is not None:
            return secret
        if not self._config.oidc_issuer:
            return ""
        form = {"grant_type": "password", "client_id": self._config.oidc_audience, "username": name, "password": secret}
        try:
            answer = httpx.post(str(self._discovered["token_endpoint"]), data=form, timeout=_ISSUER_SECONDS)
        except httpx.HTTPError as error:
            raise IssuerError(self._config.oidc_issuer, error) from error
        token = str(answer.json().get("access_token", "")) if answer.status_code == 200 else ""
        return token if token and self.who(token) is not None else ""

    @cached_property
    def _discovered(self) -> dict[str, Any]:
        url = f"{self._config.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            answer = httpx.get(url, timeout=_ISSUER_SECONDS)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise IssuerError(self._config.oidc_issuer, error) from error
        return found

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        return jwt.PyJWKClient(str(self._discovered["jwks_uri"]), cache_keys=True, timeout=_ISSUER_SECONDS)

    def _by_issuer(self, token: str) -> User | None:
        try:
            claims = jwt.decode(
                token,
                self._keys.get_signing_key_from_jwt(token).key,
                algorithms=["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"],  # never HS*, never none
                audience=self._config.oidc_audience,
                issuer=self._config.oidc_issuer.rstrip("/"),
                options={"require": ["exp", "iss", "aud"]},
                leeway=30,
            )
        except jwt.PyJWKClientConnectionError as error:
            raise IssuerError(self._config.oidc_issuer, error) from error
        except jwt.PyJWTError:
            return None
        roles: Any = claims
        for step in self._config.oidc_roles.split("."):
            roles = roles.get(step, ()) if isinstance(roles, dict) else ()
        held = [role for role in ROLES if role in roles]
        name = str(claims.get(self._config.oidc_name) or claims.get("sub") or "")
        return User(name, held[-1]) if held and name else None


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
        try:
            if self._access.asks_issuer:  # which may be slow to answer
                refusal = await run_in_threadpool(self._refused, scope, headers)
            else:
                refusal = self._refused(scope, headers)
        except IssuerError as error:
            refusal = errors.respond(503, f"{error.subject}: {error.problem}", error.remedy)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers) -> Any:
        needed = role_for(scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))
        if not self._access.asks_who:
            return self._refused_elsewhere(scope, headers)
        token, by_cookie = _token(scope, headers)
        user = self._access.who(token) if token else None
        scope["medsam2_atlas.user"] = user or User("", "annotator")
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
    return Request(scope).cookies.get(COOKIE, ""), True


def _host_name(host: str) -> str:
    """The name in a Host header, without port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
