"""Determines the page to which a login returns: always a page of this server."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

from starlette.types import Scope

from server.root_path import path_of

FIRST_PAGE = "/"
_MAX_CHARACTERS = 2000
_ALLOWED = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*")
_NO_PAGES = ("login", "logout", "auth")


def own_page(text: str) -> str:
    r"""Returns a text if it is the path of one of this server's pages; otherwise an empty string.

    Browsers interpret `//host`, `/\host` and texts with tabs or line ends as other hosts, and `..` leads out of the root path.

    Args:
        text: path without the root path, and query.

    >>> own_page("/ohif/viewer?StudyInstanceUIDs=1.2"), own_page("//evil.example")
    ('/ohif/viewer?StudyInstanceUIDs=1.2', '')
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
    """Returns the address of the login page, with the page of this request as the page to return to."""
    query = scope.get("query_string", b"").decode("ascii", "replace")
    page = own_page(quote(path_of(scope), safe="/~!$&'()*+,;=:@") + (f"?{query}" if query else ""))
    return f"/login?next={quote(page, safe='')}" if page not in ("", FIRST_PAGE) else "/login"
