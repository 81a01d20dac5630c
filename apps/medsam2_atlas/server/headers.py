"""Security headers of every answer: they forbid browsers to run unknown scripts and to store data.

By default an answer gets `no-store` and a policy under which a browser loads and runs nothing. This applies to CTs, label maps,
large pictures, lists with names, and errors. Pages set their own policy through `html_page` or as in `server.viewer`. Browsers
may cache only files that are the same for everybody, and the small pictures of the worklist (`CACHED`). These are kept in the
browser of one person only, never in a proxy, and the browser has to ask each time whether it may still show them. So nobody
sees one without a login, or after its study was erased. A logout clears them.

The middleware is the outermost, so that redirects, refusals and proxied answers get the headers, too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping

from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CACHED = ("private, max-age=86400", "private, no-cache")
"""Allowed values of `Cache-Control`. With the first, the name of a file changes with its content; with the second, the browser
asks each time. All other values become `no-store`."""

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'"
_ASSETS = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "object-src 'none'; form-action 'self'"
)
_NOBODY = "'none'"
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # Addresses of the viewer contain study UIDs. `no-referrer` would make browsers send `Origin: null` with the login form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class HeadersMiddleware:
    """Sets the headers of every answer."""

    def __init__(self, app: ASGIApp, frame_ancestors: Iterable[str] = ()) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            frame_ancestors: origins whose pages may show the server's pages in a frame.
        """
        self._app, self._ancestors = app, " ".join(frame_ancestors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, sending)

    def _complete(self, headers: MutableHeaders) -> None:
        policy = headers.get("Content-Security-Policy", _NOTHING)
        headers["Content-Security-Policy"] = f"{policy}; frame-ancestors {self._ancestors or _NOBODY}"
        if not self._ancestors:
            headers["X-Frame-Options"] = "DENY"  # for browsers that do not support frame-ancestors
        for name, value in _ALWAYS.items():
            headers[name] = value
        if headers.get("Cache-Control") not in CACHED:
            headers["Cache-Control"] = "no-store"


def html_page(html: str, status: int = 200, headers: Mapping[str, str] | None = None, template: str = "") -> Response:
    """Returns a page with a policy that allows only the scripts and styles in it, and requests to this server.

    Args:
        html: the page. Its scripts and styles are elements without attributes; it has no `style` or `on…` attributes.
        status: HTTP status.
        headers: additional headers.
        template: the template of the page, if text from outside was inserted. Then only the scripts and styles in the template
            are allowed.
    """
    trusted = template or html
    policy = (
        f"default-src 'none'; script-src {script_hashes(trusted)}; style-src {_hashes(_STYLE, trusted)}; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'"
    )
    return HTMLResponse(html, status, {**(headers or {}), "Content-Security-Policy": policy})


def asset_page(html: str) -> Response:
    """Returns a page with a policy that allows only files of this server: scripts, styles, pictures and requests.

    Args:
        html: the page. It contains no scripts, styles and `style` or `on…` attributes of its own, and no text from outside.
    """
    return HTMLResponse(html, headers={"Content-Security-Policy": _ASSETS})


def script_hashes(html: str) -> str:
    """Returns the policy sources that allow the scripts in a page; `'none'` if it has none."""
    return _hashes(_SCRIPT, html)


def _hashes(element: re.Pattern[str], html: str) -> str:
    """Returns the policy sources that allow the contents of elements; `'none'` if there are none."""
    digests = (hashlib.sha256(content.encode()).digest() for content in element.findall(html))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
