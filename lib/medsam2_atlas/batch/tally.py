"""The state of a run of a batch: how many cases are done, how fast, and how long the others will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_RECENT = 200
"""Number of the last cases from which throughput is estimated."""


@dataclass
class Tally:
    """The state of a run.

    Attributes:
        total: number of all cases of the source.
        kept: number of cases whose results of earlier runs are valid.
        done: number of cases done in this run.
        failed: why cases failed in this run, or cannot be used, by name.
        repeated: number of attempts after the first one.
        running: number of cases that are being worked on.
        waiting: number of cases that wait for another attempt.
    """

    total: int = 0
    kept: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    running: int = 0
    waiting: int = 0
    began: float = field(default_factory=time.monotonic)
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def ended(self) -> None:
        """Notes that a case has ended."""
        self._ends.append(time.monotonic())

    @property
    def left(self) -> int:
        """The number of cases without an end."""
        return max(0, self.total - self.kept - self.done - len(self.failed))

    @property
    def per_hour(self) -> float | None:
        """The throughput over the last cases, in cases an hour; None before two cases have ended."""
        if len(self._ends) < 2:
            return None
        first = self.began if len(self._ends) < _RECENT else self._ends[0]
        return 3600 * (len(self._ends) - (len(self._ends) == _RECENT)) / max(self._ends[-1] - first, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """The estimated time to the end, in s; None if it is unknown."""
        return None if self.per_hour is None else 3600 * self.left / self.per_hour

    def to_json(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        about = {name: getattr(self, name) for name in ("total", "kept", "done", "repeated", "running", "waiting", "left")}
        return about | {"failed": len(self.failed), "per_hour": self.per_hour, "seconds_left": self.seconds_left}


Watch = Callable[[Tally], None]
"""Is called with the state at the start, after each step of a run, and while it waits."""


def unwatched(tally: Tally) -> None:
    """Ignores the state."""
