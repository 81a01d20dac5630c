"""Serves the app below a path of its host, such as `https://host/medsam2/`, behind a proxy.

The proxy may remove the root path or pass it on. `RootPathMiddleware` accepts both forms and turns them into one: `root_path`
of the scope is the root path, `path` begins with it (as ASGI requires), and `path_of` returns the rest. Access, limits, metrics
and routes all use that rest, so they cannot interpret a path differently.

The root path comes only from the operator (`server_root_path`, or `--root_path` of MONAI Label's own command). The server never
reads headers such as `X-Forwarded-Prefix`, because any client can send them.

Redirects are relative to the request's address. So they are correct for any root path and scheme, even if the operator has not
set the root path. Other `Location` headers, such as that of a job, begin with the root path.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIRST_SEGMENTS = frozenset(
    {
        *(
            "activelearning",
            "annotation",
            "audit",
            "auth",
            "batch",
            "compare",
            "datastore",
            "docs",
            "favicon.ico",
            "figures",
            "healthz",
            "infer",
            "info",
            "jobs",
        ),
        *(
            "login",
            "logout",
            "logs",
            "metrics",
            "model",
            "ohif",
            "openapi.json",
            "page",
            "proxy",
            "readyz",
            "redoc",
            "review",
            "scoring",
            "session",
        ),
        *("static", "train", "worklist"),
    }
)
"""First segments of the server's own paths. No root path may begin with one, because the two would be indistinguishable."""

_PATH, _UP, _COOKIE = "medsam2_atlas.path", "medsam2_atlas.up", "medsam2_atlas"


def path_of(scope: Scope) -> str:
    """Returns a request's path without the root path. It begins with a slash."""
    path: str = scope.get(_PATH, scope["path"])
    return path


def relative_root_of(scope: Scope) -> str:
    """Returns the server's address relative to the request's address: `./`, or `../` repeated."""
    up: str = scope.get(_UP, "/")
    return up


def root_of(scope: Scope) -> str:
    """Returns the root path without a trailing slash; empty if there is none."""
    # Mounted applications get a longer root_path; app_root_path remains the server's.
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root


def cookie_name(request: Request) -> str:
    """Returns the name of the login's cookie.

    Browsers send a cookie to all ports of a host, and a cookie of `/` to all paths. The name differs for each server on a host.
    """
    port = request.headers.get("host", "").rpartition(":")[2]
    name = f"{_COOKIE}.{port}" if port.isdecimal() and port.isascii() else _COOKIE
    return name + root_of(request.scope).replace("/", "-")


class RootPathMiddleware:
    """Brings paths of requests into one form, whether or not the proxy removes the root path.

    All layers that use paths must be inside.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            root_path: root path as `parse_root_path` returns it; if empty, the root path of the ASGI server applies.
        """
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = scope.get("root_path", "")  # uvicorn puts it unchanged before each path
        root = self._root or given.rstrip("/")
        path, slashes = scope["path"], (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].count(b"/")
        for prefix in (given, root):
            if prefix and (path == prefix or path.startswith(prefix + "/")):
                path, slashes = path[len(prefix) :], slashes - prefix.count("/")
        if not path:  # without the trailing slash, links of a page would be wrong
            await RedirectResponse(f"{root}/", 308)(scope, receive, send)
            return
        up, host = "../" * (slashes - 1) or "./", Headers(scope=scope).get("host", "")
        scope = {**scope, "root_path": root, "path": root + path, _PATH: path, _UP: up}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                target = _own_target(headers.get("location", ""), host, root)
                if target is not None:
                    headers["location"] = f"{up}{target}" if 300 <= message["status"] < 400 else f"{root}/{target}"
            await send(message)

        await self._app(scope, receive, sending)


def _own_target(location: str, host: str, root: str) -> str | None:
    """Returns the path on this server in a `Location`, without its leading slash; None if it points to another server.

    Handlers write paths without the root path. Starlette writes whole URLs with it if a path lacks its trailing slash.
    """
    try:
        parts = urlsplit(location)
    except ValueError:  # Starlette built the URL from an invalid Host header
        return None
    path = parts.path
    if parts.netloc:
        if parts.netloc != host or not path.startswith(f"{root}/"):
            return None
        path = path[len(root) :]
    elif not path.startswith("/"):
        return None
    return path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
