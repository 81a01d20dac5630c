"""Around every request: an id, a line in the log, a count, and an end to how much may be sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2_atlas.base.jobs import StoppingError
from server import errors
from server.context import begin
from server.root_path import path_of
from server.stopping import Stopping

log = logging.getLogger("medsam2_atlas.requests")

_PROBES = frozenset({"/healthz", "/readyz"})
"""Routes that are still answered while the server stops."""


class RequestMiddleware:
    """Gives each request an id (or keeps `X-Request-ID`), logs it, and answers unforeseen errors.

    While the server stops, new requests are refused, and those that are cancelled because they take too long get an answer.
    """

    def __init__(self, app: ASGIApp, served: Callable[[Scope, int, float], None], stopping: Stopping) -> None:
        """
        Args:
            served: called with the scope, status and seconds of each request.
            stopping: tells whether the server stops.
        """
        self._app, self._served, self._stopping = app, served, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = begin(Headers(scope=scope).get("x-request-id", ""), scope.get("query_string", b""))
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                MutableHeaders(scope=message)["X-Request-ID"] = name
            await send(message)

        try:
            if self._stopping.begun and path_of(scope) not in _PROBES:
                raise StoppingError
            with self._stopping.request():
                await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if status or not self._stopping.begun:
                raise
            await errors.from_error(StoppingError())(scope, receive, sending)
        except Exception as error:  # a client gets an answer, whatever happened
            if status:
                raise
            await errors.from_error(error)(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._served(scope, status, seconds)
            log.info("%s %s %d %.3f s [%s]", scope["method"], path_of(scope), status, seconds, name)


class SizeLimitMiddleware:
    """Refuses bodies that are too large: before they are read where their length is told, else while they are read."""

    def __init__(self, app: ASGIApp, limit: Callable[[Scope], int]) -> None:
        """`limit`: max bytes of a request's body."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._limit(scope)
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told) > max_bytes:
            await self._refuse(max_bytes)(scope, receive, send)
            return
        read, begun = 0, False

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > max_bytes:
                raise _TooLargeError
            return message

        async def sending(message: Message) -> None:
            nonlocal begun
            if read > max_bytes and not begun:
                raise _TooLargeError  # whoever read the body has made another error of the first one
            begun = True
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except _TooLargeError:
            if begun:
                raise
            await self._refuse(max_bytes)(scope, receive, send)

    @staticmethod
    def _refuse(max_bytes: int) -> Any:
        return errors.respond(413, f"The request is larger than {max_bytes / 1e6:.0f} MB.", "Send a smaller file.")


class _TooLargeError(Exception):
    """More was read than may be sent."""
