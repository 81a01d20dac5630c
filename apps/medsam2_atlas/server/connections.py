"""Limits of connections: how many there are, and how long each may take for what it sends and reads.

uvicorn waits without limit for the rest of a request, and accepts connections until the process runs out of file descriptors. A
connection that it serves is in one of these phases; `moved` is when bytes last went through it:

| phase | limit |
| --- | --- |
| waits for a request, or has sent part of a head | `head_seconds` after it was opened, or after the head's first byte: 408 |
| sends a body | no byte for `body_seconds`, or slower than `_BODY_RATE` after the first `body_seconds`: 408 |
| reads an answer | no byte taken for `read_seconds`: it is cut off |
| waits for the answer | none: that is the server's own time |

If there are too many connections, of all or of one address, the one that has not moved for the longest time is closed, unless
it waits for an answer. So an honest client, which sends its request at once, is served while somebody holds thousands open.
If all wait for answers, the new one is refused (503).

Concurrency contract: everything here runs in the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from server import errors
from server.connection_limits import ConnectionLimits

log = logging.getLogger(__name__)

_BODY_RATE = 2000.0
"""Min bytes per second of a body, on average."""
_ACCEPTED_AT_ONCE = 16
"""Max connections that asyncio accepts in a turn of the event loop. Few, so that the first bytes of a client are read before
its connection becomes the one that has been silent the longest."""
_BACKLOG = 4096
"""Max connections that the kernel keeps until they are accepted. Many, so that the honest client's is one of them."""
_MAX_LOOK_SECONDS = 1.0


class Connections:
    """The open connections of a server, the one that moved least recently first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[Any, None] = {}
        self._of_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._server: Any = None

    def __len__(self) -> int:
        return len(self._open)

    def install(self, server: Any = None) -> None:
        """Makes a uvicorn server use these limits; called after its configuration was loaded, before it listens.

        Args:
            server: by default, the one whose signal handler is installed: MONAI Label starts it, and takes no setting for its
                protocol.
        """
        self._server = server or getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        config: Any = getattr(self._server, "config", None)
        if not hasattr(config, "http_protocol_class"):
            log.warning("connections have no limits: uvicorn does not run in the main thread")
            return
        config.http_protocol_class = limited(config.http_protocol_class, self)
        config.ws_protocol_class = None  # there are no web sockets here, and they would leave these limits
        config.backlog = _ACCEPTED_AT_ONCE

    def add(self, connection: Any) -> None:
        """Adds a new connection; closes another one, or this one, if there are too many."""
        self._open[connection] = None
        self._of_address[connection.address] += 1
        address = connection.address
        if len(self._open) > self.limits.most:
            self._make_room(connection, self._open)
        elif self._of_address[address] > self.limits.per_address:  # a proxy may have many that wait for answers
            half_open = [other for other in self._open if other.address == address and not other.waits]
            if len(half_open) > self.limits.per_address:
                self._make_room(connection, half_open)
        if self._timer is None:
            self._lengthen_backlog()
            self._look_later()

    def moved(self, connection: Any) -> None:
        """Notes that bytes went through a connection."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: Any) -> None:
        """Forgets a connection."""
        if connection in self._open:
            del self._open[connection]
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def _make_room(self, new: Any, candidates: Iterable[Any]) -> None:
        for other in candidates:
            if other is not new and not other.waits:
                self.remove(other)
                other.cut()
                return
        self.remove(new)
        new.end(503, "There are too many connections.", "Try again in a minute.")

    def _lengthen_backlog(self) -> None:
        """Lengthens the kernel's queues: asyncio makes them as long as the number of connections that it accepts at once."""
        if self._server is None or not getattr(self._server, "started", False):
            return
        for sockets in (listening.sockets for listening in self._server.servers):
            for one in sockets:
                with suppress(OSError), socket.socket(fileno=os.dup(one.fileno())) as same:
                    same.listen(_BACKLOG)
        self._server = None

    def _look_later(self) -> None:
        shortest = min(self.limits.head_seconds, self.limits.body_seconds, self.limits.read_seconds)
        self._timer = asyncio.get_running_loop().call_later(min(_MAX_LOOK_SECONDS, shortest / 4), self._look)

    def _look(self) -> None:
        self._timer = None
        self._lengthen_backlog()
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            try:
                connection.look(now, self.limits)
            except Exception:  # one odd connection must not end the limits of the others
                log.exception("a connection cannot be checked")
                self.remove(connection)
                connection.cut()
        if self._open:
            self._look_later()


def limited(base: type[Any], connections: Connections) -> type[Any]:
    """Returns uvicorn's protocol class with limits.

    It relies on these parts of uvicorn's: `connection_made`, `data_received`, `connection_lost`; `transport`, `client`,
    `timeout_keep_alive_task`, `flow` with `read_paused`, and `cycle` with `more_body`, `response_started`, `response_complete`.
    The tests of each phase fail if one of them is missing.
    """

    class Limited(base):  # type: ignore[misc]
        """One connection."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.address = self.client[0] if self.client else ""
            self._now = asyncio.get_running_loop().time
            self._began = self._moved = self._now()
            self._seen: Any = None
            self._received = self._unread = 0
            connections.add(self)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._idle:
                self._began = self._now()
            self._moved = self._now()
            self._received += len(data)
            connections.moved(self)
            super().data_received(data)

        def connection_lost(self, error: Exception | None) -> None:
            connections.remove(self)
            super().connection_lost(error)

        @property
        def waits(self) -> bool:
            """Whether the client has sent a whole request, and waits for its answer or takes it."""
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete and not cycle.more_body

        @property
        def _idle(self) -> bool:
            """Whether the connection waits for the next request."""
            return self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is not None

        def look(self, now: float, limits: ConnectionLimits) -> None:
            """Ends the connection if it has taken too long."""
            cycle = self.cycle
            if cycle is not self._seen:  # a new request: its body begins
                self._seen, self._began, self._received = cycle, now, 0
            unread = self.transport.get_write_buffer_size()
            if unread:
                if unread != self._unread:
                    self._moved = now
                    connections.moved(self)
                elif now - self._moved > limits.read_seconds:
                    log.info("a client that did not read its answer for %.0f s was cut off", limits.read_seconds)
                    self.cut()
            elif self.transport.is_closing():
                pass
            elif cycle is None or cycle.response_complete:
                if not self._idle and now - self._began > limits.head_seconds:
                    self.end(408, f"The request's head was not complete within {limits.head_seconds:g} s.", "Send it at once.")
            elif self.flow.read_paused:  # the server is busy; it is not the client that takes long
                self._began = self._moved = now
                self._received = 0
            elif cycle.more_body:
                silent, took = now - self._moved, now - self._began
                slow = took > limits.body_seconds and self._received < _BODY_RATE * (took - limits.body_seconds)
                if silent > limits.body_seconds or slow:
                    self.end(408, "The request's body came too slowly.", "Send it again over a faster connection.")
            self._unread = unread

        def end(self, status: int, message: str, remedy: str) -> None:
            """Closes the connection, with an answer if none has begun."""
            begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
            if not begun:
                body = json.dumps(errors.body(status, message, remedy)).encode()
                reason = {408: "Request Timeout", 503: "Service Unavailable"}[status]
                head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                self.transport.write(head.encode() + b"Retry-After: 60\r\nConnection: close\r\n\r\n" + body)
            self.transport.close()
            asyncio.get_running_loop().call_later(_MAX_LOOK_SECONDS, self.cut)

        def cut(self) -> None:
            """Closes the connection at once."""
            self.transport.abort()

    return Limited
