"""A server connection that closes itself if it exceeds the limits listed in `server.connections`."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from server import errors
from server.connection_limits import ConnectionLimits

if TYPE_CHECKING:
    from server.connections import Connections

log = logging.getLogger(__name__)

_BODY_RATE = 2000.0
"""Min average rate of a body, in bytes per second."""
_END_SECONDS = 1.0
"""Max seconds that a closing connection may take to send its last answer."""


class LimitedConnection:
    """A mixin that limits one connection; `limited` combines it with uvicorn's protocol class.

    It uses these parts of uvicorn's class: `connection_made`, `data_received`, `connection_lost`; `transport`, `client`,
    `timeout_keep_alive_task`, `flow` with `read_paused`, and `cycle` with `more_body`, `response_started`, `response_complete`.
    The tests of each phase fail if one of them is missing.
    """

    all: Connections  # `connections` is uvicorn's own
    transport: Any
    client: Any
    timeout_keep_alive_task: Any
    flow: Any
    cycle: Any

    def connection_made(self, transport: Any) -> None:
        """Registers a new connection."""
        super().connection_made(transport)  # type: ignore[misc]
        self.address = self.client[0] if self.client else ""
        self._now = asyncio.get_running_loop().time
        self._began = self._moved = self._now()
        self._seen: Any = None
        self._received = self._unread = 0
        self.all.add(self)

    def data_received(self, data: bytes) -> None:
        """Counts the received bytes and notes their time."""
        if self.transport.is_closing():
            return
        if self._idle:
            self._began = self._now()
        self._moved = self._now()
        self._received += len(data)
        self.all.moved(self)
        super().data_received(data)  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        """Unregisters the connection."""
        self.all.remove(self)
        super().connection_lost(error)  # type: ignore[misc]

    @property
    def waits(self) -> bool:
        """Whether the client has sent a whole request and is waiting for, or reading, its answer."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    @property
    def _idle(self) -> bool:
        """Whether the connection is waiting for the next request."""
        return self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is not None

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """Closes the connection if it has exceeded a limit.

        Args:
            now: the event loop's time in seconds.
            limits: the limits of the server.
        """
        cycle = self.cycle
        if cycle is not self._seen:  # a new request: its body begins
            self._seen, self._began, self._received = cycle, now, 0
        unread = self.transport.get_write_buffer_size()
        if unread:
            if unread != self._unread:
                self._moved = now
                self.all.moved(self)
            elif now - self._moved > limits.read_seconds:
                log.info("closed a connection whose client read no byte of its answer for %.0f s", limits.read_seconds)
                self.cut()
        elif self.transport.is_closing():
            pass
        elif cycle is None or cycle.response_complete:
            if not self._idle and now - self._began > limits.head_seconds:
                self.end(408, f"The request's head was not complete within {limits.head_seconds:g} s.", "Send it at once.")
        elif self.flow.read_paused:  # the server is busy: the delay is not the client's
            self._began = self._moved = now
            self._received = 0
        elif cycle.more_body:
            silent, took = now - self._moved, now - self._began
            slow = took > limits.body_seconds and self._received < _BODY_RATE * (took - limits.body_seconds)
            if silent > limits.body_seconds or slow:
                self.end(408, "The request's body arrived too slowly.", "Send it again over a faster connection.")
        self._unread = unread

    def end(self, status: int, message: str, remedy: str) -> None:
        """Closes the connection; sends an error first if no answer has begun.

        Args:
            status: HTTP status, 408 or 503.
            message: the problem, as a sentence.
            remedy: what the user can do.
        """
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not begun:
            body = json.dumps(errors.body(status, message, remedy)).encode()
            reason = {408: "Request Timeout", 503: "Service Unavailable"}[status]
            head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Retry-After: 60\r\nConnection: close\r\n\r\n" + body)
        self.transport.close()
        asyncio.get_running_loop().call_later(_END_SECONDS, self.cut)

    def cut(self) -> None:
        """Closes the connection at once, without an answer."""
        self.transport.abort()


def limited(base: type[Any], connections: Connections) -> type[Any]:
    """Returns a subclass of uvicorn's protocol class with limits.

    Args:
        base: uvicorn's protocol class.
        connections: the open connections of the server.
    """
    return type("Limited", (LimitedConnection, base), {"all": connections})
