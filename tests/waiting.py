"""Waits for other threads and processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def until(happened: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """Calls a function until its result is true, and returns the result.

    Args:
        happened: the function.
        seconds: max time to wait; after it, the test fails.
        what: description of the event, for the failure.
    """
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


class Clock:
    """A clock whose time tests set. now: its time in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


@contextmanager
def time_limit(seconds: int = 20) -> Iterator[None]:
    """Raises TimeoutError in the block if it takes longer than a number of seconds."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
