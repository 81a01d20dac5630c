"""The page to which a login returns: always one of this server's own."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

from starlette.types import Scope

from server.root_path import path_of

FIRST_PAGE = "/ohif/"
_MAX_CHARACTERS = 2000
_ALLOWED = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*")
_NO_PAGES = ("login", "logout", "auth")


def own_page(text: str) -> str:
    """Returns a path of this server without its root path, with its query; empty if a text is anything else.

    Browsers take `//host`, `/\\host` and texts with tabs or line ends for other hosts, and `..` leads out of the root path.
    """
    if len(text) > _MAX_CHARACTERS or not _ALLOWED.fullmatch(text):
        return ""
    path = urlsplit(text).path if not text.startswith("//") else "//"
    steps = unquote(path).split("/")[1:]
    inner = steps[:-1] if steps[-1] == "" else steps
    if any(step in ("", ".", "..") or "\\" in step for step in inner) or steps[0] in _NO_PAGES:
        return ""
    return text


def login_address(scope: Scope) -> str:
    """Returns the address of the login page that returns to what is asked now."""
    query = scope.get("query_string", b"").decode("ascii", "replace")
    page = own_page(quote(path_of(scope), safe="/~!$&'()*+,;=:@") + (f"?{query}" if query else ""))
    return f"/login?next={quote(page, safe='')}" if page not in ("", "/", FIRST_PAGE) else "/login"
