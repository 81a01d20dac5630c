"""How many requests of one person are served at the same time, so that nobody takes all connections."""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2_atlas.errors import LimitError
from server import errors
from server.owners import owner_id
from server.root_path import path_of

_FOLLOWING = 20
"""Max jobs that a person follows at the same time, of all the requests."""
_RETRY_SECONDS = 5


class PersonLimitMiddleware:
    """Refuses requests of a person who has too many. Where nobody logs in, there is no such limit."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """`limit`: max requests of a person at the same time."""
        self._app, self._limit = app, limit
        self._now: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        user = scope.get("medsam2_atlas.user")
        owner = owner_id(user) if user is not None else ""
        if not owner:
            await self._app(scope, receive, send)
            return
        follows = path_of(scope).endswith("/events")
        kinds = [(owner, "requests")] + [(owner, "events")] * follows
        if self._now[kinds[0]] >= self._limit or (follows and self._now[kinds[1]] >= _FOLLOWING):
            error = LimitError("requests", "of yours are too many at once.", "Wait until others have ended.", _RETRY_SECONDS)
            await errors.from_error(error)(scope, receive, send)
            return
        self._now.update(kinds)
        try:
            await self._app(scope, receive, send)
        finally:
            self._now.subtract(kinds)
            for kind in kinds:
                if not self._now[kind]:
                    del self._now[kind]
