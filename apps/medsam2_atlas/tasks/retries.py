"""Records temporary failures and the time of the next try."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

_FIRST_SECONDS = 10.0
_MAX_SECONDS = 300.0


@dataclass(frozen=True)
class _Failure:
    """The last failure of a task.

    Attributes:
        problem: the error in words.
        wait: seconds from the failure to the next try.
        again: time of the next try, in seconds of the clock.
    """

    problem: str
    wait: float
    again: float


class Retries:
    """The delays before failed tasks are tried again: they double with each failure, from 10 s up to 5 minutes. Thread-safe.

    Example:
        >>> retries = Retries(clock=lambda: 0.0)
        >>> retries.failed("case-7", "The PACS does not answer.")
        >>> retries.due("case-7"), retries.due("case-8")
        (False, True)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without any failure.

        Args:
            clock: returns the time in seconds; it must never go back.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, _Failure] = {}

    def failed(self, name: str, problem: str) -> None:
        """Records a failure of the task `name`."""
        with self._lock:
            before = self._failures.get(name)
            wait = min(_MAX_SECONDS, 2 * before.wait) if before else _FIRST_SECONDS
            self._failures[name] = _Failure(problem, wait, self._clock() + wait)

    def succeeded(self, name: str) -> None:
        """Deletes the failures of a task."""
        with self._lock:
            self._failures.pop(name, None)

    def due(self, name: str) -> bool:
        """Returns whether a task may be tried: it has not failed, or its delay is over."""
        with self._lock:
            failure = self._failures.get(name)
        return failure is None or self._clock() >= failure.again

    def keep(self, names: Collection[str]) -> None:
        """Deletes the failures of all tasks except these."""
        with self._lock:
            self._failures = {name: failure for name, failure in self._failures.items() if name in names}

    def problems(self) -> dict[str, str]:
        """Returns the problems of the tasks whose last try failed, by name."""
        with self._lock:
            return {name: failure.problem for name, failure in self._failures.items()}
