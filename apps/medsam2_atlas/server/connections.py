"""Limits of connections: how many there are, and how long each may take for what it sends and reads.

uvicorn waits without limit for the rest of a request, and accepts connections until the process runs out of file descriptors. A
connection that it serves is in one of these phases; `moved` is when bytes last went through it:

| phase | limit |
| --- | --- |
| waits for a request, or has sent part of a head | `head_seconds` after it was opened, or after the head's first byte: 408 |
| sends a body | no byte for `body_seconds`, or slower than 2000 bytes a second after the first `body_seconds`: 408 |
| reads an answer | no byte taken for `read_seconds`: it is cut off |
| waits for the answer | none: that is the server's own time |

If there are too many connections, of all or of one address, the one that has not moved for the longest time is closed, unless
it waits for an answer. So an honest client, which sends its request at once, is served while somebody holds thousands open.
If all wait for answers, the new one is refused (503).

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
        if len(self._open) > self.limits.max_open:
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
