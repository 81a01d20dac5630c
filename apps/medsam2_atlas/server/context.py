"""The context of the current request: its id and the study names in it."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from urllib.parse import parse_qsl

_GIVEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")

NAMING = frozenset({"id", "image", "images", "label", "series", "study"})
"""Query parameters that name studies."""

_request_id: ContextVar[str] = ContextVar("request_id", default="-")
_mentioned: ContextVar[set[str] | None] = ContextVar("mentioned", default=None)


def request_id() -> str:
    """Returns the id of the current request; `-` outside of a request."""
    return _request_id.get()


def begin(given: str, query: bytes = b"") -> str:
    """Begins a request and returns its id.

    Args:
        given: the id that a proxy or client has chosen; used if it is a valid id, otherwise replaced by a random one.
        query: the query string of the request.
    """
    name = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex[:16]
    _request_id.set(name)
    # Handlers get the last value of a repeated parameter. Keeping thousands of others would make each log line slow.
    last = dict(parse_qsl(query.decode("latin-1"), errors="surrogateescape"))
    _mentioned.set({last[key] for key in NAMING & last.keys()})
    return name


def mention(name: str) -> None:
    """Adds a study name that is not in the request's query, such as the name of an upload."""
    names = _mentioned.get()
    if names is not None and name:
        names.add(name)  # all threads that serve the request share this set


def mentioned() -> frozenset[str]:
    """Returns the study names in the current request, whether or not such studies exist; none outside of a request."""
    return frozenset(_mentioned.get() or ())
