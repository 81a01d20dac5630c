"""Runs a function in several processes that Ctrl+C ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


def in_processes(count: int, function: Callable[[int], None], tasks: int) -> Iterator[int]:
    """Calls a function with 0, 1, 2, … in several processes, and yields the number of completed calls after each call.

    Python's own pools would begin further calls after Ctrl+C, and wait for them. Here, a running call ends with `SystemExit`,
    so that it can remove its temporary files, and no further call begins.

    Args:
        count: max number of processes.
        function: the function; it must be importable.
        tasks: number of calls.
    """
    pool = ProcessPoolExecutor(min(count, tasks), initializer=_end_on_interrupt)
    try:
        for done, _ in enumerate(pool.map(partial(_called, function), range(tasks)), 1):
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def _end_on_interrupt() -> None:
    """Makes Ctrl+C raise `SystemExit`, so that a process that waits for a call ends without a traceback.

    So does SIGTERM, which the pool sends to all processes when the first one has ended. Only the first signal counts: the
    second one must not stop the removal of temporary files.
    """

    def stop(*_: Any) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(1)

    for number in _ENDING:
        signal.signal(number, stop)


def _called(function: Callable[[int], None], number: int) -> None:
    try:
        function(number)
    except SystemExit:  # the pool would store it as the result of the call, and begin the next call
        os._exit(1)
