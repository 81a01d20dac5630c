"""One way to tell how far a long job is, and who is told.

A job is handed a callable, or takes the one of the thread's job: `current()`. Whoever is told may raise an exception to
stop the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Is told a stage's name and its share done, 0..1; of one organ where that organ is named."""

    def __call__(self, stage: str, share: float, organ: int | None = None) -> None:
        """Takes note; may raise to stop the job."""
        ...


def silent(stage: str, share: float, organ: int | None = None) -> None:
    """Tells nobody."""


def part(progress: Progress, begin: float, end: float) -> Progress:
    """Tells the shares of a part of a stage as shares of the whole, which it takes from `begin` to `end`."""

    def told(stage: str, share: float, organ: int | None = None) -> None:
        progress(stage, begin + (end - begin) * share, organ)

    return told


_current: ContextVar[Progress] = ContextVar("progress", default=silent)


def current() -> Progress:
    """Who is told by the job of this thread."""
    return _current.get()


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Jobs within the block tell `progress`."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
