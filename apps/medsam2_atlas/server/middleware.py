"""Layers around every request: they assign an id, log and count the request, and limit the size of its body."""

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
"""Routes that still work while the server stops."""


class RequestMiddleware:
    """Assigns each request an id (or keeps `X-Request-ID`), logs it, and answers unexpected errors.

    While the server stops, it refuses new requests and answers those that are cancelled because they take too long.
    """

    def __init__(self, app: ASGIApp, served: Callable[[Scope, int, float], None], stopping: Stopping) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            served: called with the scope, status and seconds of each request.
            stopping: the state of the server's stop.
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
        except Exception as error:  # every client gets an answer
            if status:
                raise
            await errors.from_error(error)(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._served(scope, status, seconds)
            log.info("%s %s %d %.3f s [%s]", scope["method"], path_of(scope), status, seconds, name)


class SizeLimitMiddleware:
    """Refuses bodies that are too large: before reading if the length is in the head, otherwise while reading."""

    def __init__(self, app: ASGIApp, limit: Callable[[Scope], int]) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            limit: returns the max number of bytes of a request's body.
        """
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._limit(scope)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > max_bytes:
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
                raise _TooLargeError  # the handler has turned the first error into another one
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
    """The body of a request exceeds its limit."""
