"""Access control: the role that each route needs, and the check of each request.

There are three roles. Each includes the rights of the previous ones: `annotator` (view, run models, save label maps),
`reviewer` (restore and remove label maps, score), `admin` (images, training, weights, logs). Every route needs a role; a route
that is not listed needs `admin`.

Without tokens and without an issuer, the server answers only requests from its own machine. It refuses other addresses, and
host names that a web page could point at this machine.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2_atlas.access.token_entries import ROLES
from server import errors
from server.config import ServerConfig
from server.issuer import IssuerError
from server.own_pages import login_address
from server.people import LOCAL, NOBODY, User
from server.root_path import cookie_name, path_of
from server.sign_in import Access
from server.wrong_logins import TooManyWrongError, client_address

__all__ = ["LOCAL", "OPEN", "ROLES", "Access", "AccessMiddleware", "User", "role_for", "user_of"]

OPEN = frozenset(
    {
        *(("GET", path) for path in ("/healthz", "/readyz", "/login", "/logout", "/auth/")),
        *(("POST", path) for path in ("/login", "/logout", "/auth/token")),
    }
)
"""Routes that need no role: health, readiness, login and logout. They never send a token to the issuer."""

_HERE = frozenset({"127.0.0.1", "::1", "localhost"})
_READ = ("GET", "HEAD")
_RULES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (_READ, r"/(|docs|figures|compare|openapi\.json|favicon\.ico)", "annotator"),
    (_READ, r"/(static|ohif|page)(/.*)?", "annotator"),
    (_READ, r"/(info|auth/token/valid)/?", "annotator"),
    (("GET", "POST"), r"/proxy/dicom/.*", "annotator"),
    (("GET",), r"/review", "annotator"),
    (("GET",), r"/worklist/(cases|summary|picture|figures)", "annotator"),
    (("GET",), r"/compare/(case|picture)", "annotator"),
    (("POST",), r"/infer/[^/]+", "annotator"),
    (("GET", "DELETE"), r"/jobs(/[^/]+(/(events|result))?)?", "annotator"),
    (("POST",), r"/activelearning/[^/]+", "annotator"),
    (("GET", "POST"), r"/worklist/next", "annotator"),
    (("POST", "DELETE"), r"/worklist/claim", "annotator"),
    (("POST",), r"/worklist/assign", "reviewer"),
    (("GET",), r"/(train|batch/infer(/progress)?|scoring)/?", "annotator"),
    (("GET", "PUT", "DELETE"), r"/session(/[^/]*)?", "annotator"),
    (_READ, r"/datastore/?", "annotator"),
    (_READ, r"/datastore/(image|label)(/(info|versions|version|rtstruct))?", "annotator"),
    (("PUT",), r"/datastore/(label|label/info|image/info)", "annotator"),
    (("GET",), r"/annotation/(case|label|compare|compare/label)", "annotator"),
    (("PUT", "DELETE"), r"/annotation/draft", "annotator"),
    (("POST",), r"/annotation/(changes|submit|refine)", "annotator"),
    (("POST",), r"/datastore/label/(restore|confirm|accept|return)", "reviewer"),
    (("DELETE",), r"/datastore/label", "reviewer"),
    (("POST",), r"/scoring(/[^/]*)?", "reviewer"),
    (("GET",), r"/(datastore/dataset|metrics)", "reviewer"),
)


def role_for(method: str, path: str) -> str:
    """Returns the role that a request needs; an empty string if the route is open to everybody.

    Args:
        method: HTTP method, in capitals.
        path: path without the root path.

    >>> role_for("POST", "/infer/atlas"), role_for("PUT", "/model/unet_3d"), role_for("GET", "/healthz")
    ('annotator', 'admin', '')
    """
    if (method, path) in OPEN:
        return ""
    return next((role for methods, pattern, role in _RULES if method in methods and re.fullmatch(pattern, path)), "admin")


def user_of(request: Request) -> User:
    """Returns the user who sent a request."""
    user: User = request.scope["medsam2_atlas.user"]
    return user


class AccessMiddleware:
    """Passes a request on if its user has the role that the route needs."""

    def __init__(self, app: ASGIApp, access: Access, config: ServerConfig) -> None:
        self._app, self._access = app, access
        self._hosts, self._origins = _HERE | set(config.hosts), frozenset(config.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "websocket":  # the server has no web sockets
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        needed = role_for(scope["method"], path_of(scope))
        if not self._access.login_required:
            refusal = self._refused_elsewhere(scope, headers)
        else:
            bearer, cookie = _credentials(scope, headers)
            user = self._access.known_user(bearer) if bearer else self._access.logged_in_user(cookie)
            try:
                if user is None and needed and scope["method"] != "OPTIONS" and self._access.needs_issuer(bearer):
                    user = await self._access.with_issuer(self._access.user, bearer)
                refusal = self._refused(scope, headers, needed, user, bearer)
            except IssuerError as error:
                refusal = errors.from_error(error)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers, needed: str, user: User | None, bearer: str) -> Any:
        scope["medsam2_atlas.user"] = user or NOBODY
        if scope["method"] == "OPTIONS":
            return None
        if not bearer and self._foreign(scope, headers) and (user is not None or not needed):
            return errors.respond(403, "The request came from a page of another site.")
        if not needed:
            return None
        if user is None:
            return self._unknown(scope, headers, bearer)
        if not user.may(needed):
            return errors.respond(403, f"This request needs the role {needed}; {user.name} has {user.role}.")
        return None

    def _unknown(self, scope: Scope, headers: Headers, bearer: str) -> Any:
        """Returns the answer to an unknown user. Too many wrong tokens from one client address make that address wait."""
        # Cookies and signed tokens cannot be guessed. Expired ones must not make a whole address wait.
        try:
            if bearer and not self._access.needs_issuer(bearer):
                self._access.wrong.begin(client_address(scope))
        except TooManyWrongError as error:
            return errors.respond(429, str(error), headers={"Retry-After": str(error.seconds)})
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return errors.respond(303, "Log in first.", headers={"Location": login_address(scope)})
        remedy = "Send a token: Authorization: Bearer TOKEN."
        return errors.respond(
            401, "You are not logged in, or the token is not valid.", remedy, headers={"WWW-Authenticate": "Bearer"}
        )

    def _refused_elsewhere(self, scope: Scope, headers: Headers) -> Any:
        """Returns the refusal for a server without logins: only this machine may ask, and only by its own host names."""
        scope["medsam2_atlas.user"] = LOCAL
        client, host = (scope.get("client") or ("", 0))[0], _host_name(headers.get("host", ""))
        remedy = "Start the server with tokens or an OIDC issuer; see docs/access.md."
        if client not in _HERE:
            return errors.respond(403, f"Without a login this server answers its own machine only, not {client}.", remedy)
        if host not in self._hosts:
            return errors.respond(403, f"This server is not known as {host[:100]}.", "Add its name: --conf server_hosts=NAME.")
        if self._foreign(scope, headers):
            return errors.respond(403, "The request came from a page of another site.")
        return None

    def _foreign(self, scope: Scope, headers: Headers) -> bool:
        """Returns whether a page of another site made the browser send a request that changes something."""
        origin = headers.get("origin", "")
        own = not origin or origin.partition("://")[2] == headers.get("host", "") or origin in self._origins
        return scope["method"] not in (*_READ, "OPTIONS") and not own


def _credentials(scope: Scope, headers: Headers) -> tuple[str, str]:
    """Returns the bearer token of a script, or else the login cookie of a browser; both may be empty."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip(), ""
    request = Request(scope)
    return "", request.cookies.get(cookie_name(request), "")


def _host_name(host: str) -> str:
    """Returns the name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
