"""Starts worker processes that end with the process that started them.

Python's own pools wait for running tasks when they are interrupted, and their workers survive a process that is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def worker_processes(jobs: int, start: Callable[[T], None], value: T) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of processes for the block. They end at once if the block fails or this process is killed.

    Args:
        jobs: number of processes.
        start: called with `value` in each process before its first task.
        value: passed to `start`.
    """
    context = get_context("spawn")
    # Only this process has the writing end, which the system closes when the process ends, however it ends.
    reading, writing = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(reading, start, value))
    try:
        try:
            yield pool
            pool.shutdown()
        finally:
            writing.close()
    finally:
        pool.shutdown(cancel_futures=True)
        reading.close()


def _begin(lifeline: Connection, start: Callable[[T], None], value: T) -> None:
    """Begins a worker process; Ctrl+C is left to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    start(value)


def _end_with(lifeline: Connection) -> None:
    """Ends this process when the writing end of a pipe is closed."""
    lifeline.poll(None)
    os._exit(1)
