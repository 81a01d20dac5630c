"""What belongs to a request while it is served: its id, and the study names that it holds."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from urllib.parse import parse_qsl

_GIVEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_NAMING = frozenset({"id", "image", "images", "label", "study"})
"""Query parameters that name studies."""

_request_id: ContextVar[str] = ContextVar("request_id", default="-")
_mentioned: ContextVar[set[str] | None] = ContextVar("mentioned", default=None)


def request_id() -> str:
    """The id of the request that is served; `-` outside of one."""
    return _request_id.get()


def begin(given: str, query: bytes = b"") -> str:
    """Begins a request, by the id that a proxy or client gave it where that can be one. query: of its address."""
    name = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex[:16]
    _request_id.set(name)
    # Of a parameter that is repeated, handlers get the last value. Thousands of others would make each log line slow.
    last = dict(parse_qsl(query.decode("latin-1"), errors="surrogateescape"))
    _mentioned.set({last[key] for key in _NAMING & last.keys()})
    return name


def mention(name: str) -> None:
    """Adds a study name that the request holds elsewhere than in its query, such as the name of an upload."""
    names = _mentioned.get()
    if names is not None and name:
        names.add(name)  # the set is that of all threads that serve the request


def mentioned() -> frozenset[str]:
    """Returns the study names that the request holds, whether there are such studies or not; none outside of a request."""
    return frozenset(_mentioned.get() or ())
