"""Checks the root path of a server behind a proxy, such as `/medsam2` in `https://host/medsam2/`.

It becomes part of links, cookies and redirects, so only plain path segments are allowed.
"""

from __future__ import annotations

import re

from medsam2_atlas.base.errors import InputError

_PLAIN = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_MAX_LENGTH = 200


def parse_root_path(text: str) -> str:
    """Returns a root path without a slash at its end; empty for a server at the top of its host.

    Raises:
        InputError: the text does not begin with a slash, contains characters other than letters, digits, `/`, `.`, `_`, `~`
            and `-`, contains a segment `.` or `..`, or is longer than 200 characters.

    >>> parse_root_path("/medsam2/")
    '/medsam2'
    """
    path = text.removesuffix("/")
    if not path:
        return ""
    if len(path) > _MAX_LENGTH or not _PLAIN.fullmatch(path) or not {".", ".."}.isdisjoint(path.split("/")):
        remedy = "Give only the path, such as /medsam2; it may contain letters, digits and . _ ~ -."
        raise InputError(repr(text[:80]), "cannot be the root path of a server.", remedy)
    return path
