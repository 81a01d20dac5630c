"""How many connections the server has, and how long each may take; see `connections`."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits.

    Attributes:
        total: max connections.
        per_address: max connections of one address that are half-open: they do not wait for an answer.
        head_seconds: max time for the head of a request.
        body_seconds: max time without a byte of a body.
        read_seconds: max time in which a client takes no byte of its answer.
    """

    total: int = 400
    per_address: int = 100
    head_seconds: float = 15.0
    body_seconds: float = 30.0
    read_seconds: float = 60.0

    @property
    def max_open(self) -> int:
        """Returns the max number of connections now: at least half of the file descriptors are left for files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.total if soft == resource.RLIM_INFINITY else max(1, min(self.total, soft // 2))
