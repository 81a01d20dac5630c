"""Remembers temporary failures and when to try again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

_FIRST_SECONDS = 10.0
_MAX_SECONDS = 300.0


@dataclass(frozen=True)
class _Failure:
    """problem: in words. wait: seconds from the last failure to the next try. again: time of the next try."""

    problem: str
    wait: float
    again: float


class Retries:
    """Delays that double with each failure of the same thing, from 10 s up to 5 minutes. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: returns seconds that never go back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, _Failure] = {}

    def failed(self, name: str, problem: str) -> None:
        """Notes a failure."""
        with self._lock:
            before = self._failures.get(name)
            wait = min(_MAX_SECONDS, 2 * before.wait) if before else _FIRST_SECONDS
            self._failures[name] = _Failure(problem, wait, self._clock() + wait)

    def succeeded(self, name: str) -> None:
        """Forgets the failures of a thing."""
        with self._lock:
            self._failures.pop(name, None)

    def due(self, name: str) -> bool:
        """Returns whether a thing may be tried: it has not failed, or its delay is over."""
        with self._lock:
            failure = self._failures.get(name)
        return failure is None or self._clock() >= failure.again

    def keep(self, names: Collection[str]) -> None:
        """Forgets all but these."""
        with self._lock:
            self._failures = {name: failure for name, failure in self._failures.items() if name in names}

    def problems(self) -> dict[str, str]:
        """Returns what is wrong with the things that failed last time, by name."""
        with self._lock:
            return {name: failure.problem for name, failure in self._failures.items()}
