"""Limits the number of connections and the time that each may take to send and read.

uvicorn waits without limit for the rest of a request, and accepts connections until the process runs out of file descriptors. A
connection is in one of these phases:

| phase | limit |
| --- | --- |
| waits for a request, or has sent part of a head | `head_seconds` after it was opened, or after the head's first byte: 408 |
| sends a body | no byte for `body_seconds`, or slower than 2000 bytes a second after the first `body_seconds`: 408 |
| reads an answer | no byte read for `read_seconds`: the connection is closed |
| waits for the answer | none: the server needs this time itself |

If there are too many connections in total or from one address, the server closes the one that has been silent the longest,
except connections that wait for an answer. So an honest client, which sends its request at once, is served while an attacker
keeps thousands open. If all connections wait for answers, the new one is refused (503).

Concurrency contract: everything here runs in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from server.connection import limited
from server.connection_limits import ConnectionLimits

log = logging.getLogger(__name__)

_ACCEPTED_AT_ONCE = 16
"""Max number of connections that asyncio accepts in a turn of the event loop. It is low, so that the server reads a client's
first bytes before its connection becomes the one that has been silent the longest."""
_BACKLOG = 4096
"""Max number of connections that the kernel queues until they are accepted. It is high, so that the queue has room for the
honest client."""
_MAX_LOOK_SECONDS = 1.0


class Connections:
    """The open connections of a server. The one that has been silent the longest comes first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[Any, None] = {}
        self._of_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._server: Any = None

    def __len__(self) -> int:
        return len(self._open)

    def install(self, server: Any = None) -> None:
        """Makes a uvicorn server use these limits. Call it after the server's configuration is loaded and before it listens.

        Args:
            server: the uvicorn server. By default, the one whose signal handler is installed: MONAI Label starts it, and has no
                setting for its protocol class.
        """
        self._server = server or getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        config: Any = getattr(self._server, "config", None)
        if not hasattr(config, "http_protocol_class"):
            log.warning("connections have no limits: uvicorn does not run in the main thread")
            return
        config.http_protocol_class = limited(config.http_protocol_class, self)
        config.ws_protocol_class = None  # the server has no web sockets, and they would escape these limits
        config.backlog = _ACCEPTED_AT_ONCE

    def add(self, connection: Any) -> None:
        """Adds a new connection. If there are too many, closes another one, or this one."""
        self._open[connection] = None
        self._of_address[connection.address] += 1
        address = connection.address
        if len(self._open) > self.limits.max_open:
            self._make_room(connection, self._open)
        elif self._of_address[address] > self.limits.per_address:  # a proxy may have many connections that wait for answers
            half_open = [other for other in self._open if other.address == address and not other.waits]
            if len(half_open) > self.limits.per_address:
                self._make_room(connection, half_open)
        if self._timer is None:
            self._lengthen_backlog()
            self._look_later()

    def moved(self, connection: Any) -> None:
        """Notes that a connection has sent or received bytes."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: Any) -> None:
        """Removes a connection."""
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
        """Lengthens the kernel's queues: asyncio sets their length to the number of connections that it accepts at once."""
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
                connection.check(now, self.limits)
            except Exception:  # an error in one connection must not end the limits of the others
                log.exception("a connection cannot be checked")
                self.remove(connection)
                connection.cut()
        if self._open:
            self._look_later()
