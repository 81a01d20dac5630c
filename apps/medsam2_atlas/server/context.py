"""What belongs to a request while it is served: its id, and who asks."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

_GIVEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_request_id: ContextVar[str] = ContextVar("request_id", default="-")


def request_id() -> str:
    """The id of the request that is served; `-` outside of one."""
    return _request_id.get()


def begin(given: str) -> str:
    """Begins a request, by the id that a proxy or client gave it where that can be one."""
    name = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex[:16]
    _request_id.set(name)
    return name
