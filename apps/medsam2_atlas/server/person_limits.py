"""Limits the simultaneous requests of one person, so that nobody takes all connections."""

from __future__ import annotations

from collections import Counter

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from medsam2_atlas.base.errors import LimitError
from server import errors
from server.owners import owner_id
from server.root_path import path_of

_FOLLOWING = 20
"""Max number of jobs that a person follows at the same time; each takes one of the person's requests."""
_UPLOADS = 4
"""Max number of files or series that a person sends at the same time. A series may keep 4,000 files open, and the files of all
users wait for the same few reader processes."""
_RETRY_SECONDS = 5


class PersonLimitMiddleware:
    """Refuses further requests of a person who has too many. A server without logins has no such limit."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            limit: max number of simultaneous requests of a person.
        """
        self._app, self._limit = app, limit
        self._now: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        user = scope.get("medsam2_atlas.user")
        owner = owner_id(user) if user is not None else ""
        if not owner:
            await self._app(scope, receive, send)
            return
        limits = {(owner, "requests"): self._limit}
        if path_of(scope).endswith("/events"):
            limits[owner, "events"] = _FOLLOWING
        if scope["method"] == "PUT" and Headers(scope=scope).get("content-type", "").lower().startswith("multipart/"):
            limits[owner, "uploads"] = _UPLOADS
        if any(self._now[kind] >= limit for kind, limit in limits.items()):
            problem = "cannot be served: you have too many at once."
            error = LimitError("requests", problem, "Wait until your other requests have ended.", _RETRY_SECONDS)
            await errors.from_error(error)(scope, receive, send)
            return
        self._now.update(limits.keys())
        try:
            await self._app(scope, receive, send)
        finally:
            self._now.subtract(limits.keys())
            for kind in limits:
                if not self._now[kind]:
                    del self._now[kind]
