"""The max number of connections and their time limits; see `connections`."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of connections.

    Attributes:
        total: max number of connections.
        per_address: max number of half-open connections of one address. A half-open connection is not waiting for an answer.
        head_seconds: max seconds for the head of a request.
        body_seconds: max seconds without a byte of a body.
        read_seconds: max seconds in which a client reads no byte of its answer.
    """

    total: int = 400
    per_address: int = 100
    head_seconds: float = 15.0
    body_seconds: float = 30.0
    read_seconds: float = 60.0

    @property
    def max_open(self) -> int:
        """The max number of connections at present; it leaves at least half of the file descriptors for files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.total if soft == resource.RLIM_INFINITY else max(1, min(self.total, soft // 2))
