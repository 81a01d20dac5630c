"""Reports the progress of long jobs to a callable.

A job gets the callable as an argument, or uses the callable of the job that runs in this thread: `current()`. The callable may
raise an exception to stop the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """A callable that receives the progress of a job."""

    def __call__(self, stage: str, share: float, organ: int | None = None) -> None:
        """Receives the progress of a stage; may raise an exception to stop the job.

        Args:
            stage: name of the stage.
            share: completed fraction of the stage, 0..1.
            organ: organ number if `share` is the fraction of one organ only.
        """
        ...


def silent(stage: str, share: float, organ: int | None = None) -> None:
    """Ignores the progress."""


def part(progress: Progress, begin: float, end: float) -> Progress:
    """Returns a callable for one part of a stage: it scales the part's fractions to the range from `begin` to `end`.

    Args:
        progress: receives the scaled fractions.
        begin: fraction of the stage at the start of the part, 0..1.
        end: fraction of the stage at the end of the part, 0..1.
    """

    def scaled(stage: str, share: float, organ: int | None = None) -> None:
        progress(stage, begin + (end - begin) * share, organ)

    return scaled


_current: ContextVar[Progress] = ContextVar("progress", default=silent)


def current() -> Progress:
    """Returns the callable that receives the progress of this thread's job."""
    return _current.get()


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Makes `progress` the result of `current` for the duration of the block."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
