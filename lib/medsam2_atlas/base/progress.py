"""Reports the progress of long jobs to a callable.

A job gets the callable as an argument, or uses the callable of the job that runs in this thread: `current()`. The callable may
raise an exception to stop the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def _unseen(text: str) -> None:
    """Ignores what a job works on."""


_shown: ContextVar[Callable[[str], None]] = ContextVar("what a job works on", default=_unseen)


def doing(text: str) -> None:
    """Shows what this thread's job works on, such as the name of a reference; does nothing unless a block of `showing` runs.

    Args:
        text: what the job works on until the next call.
    """
    _shown.get()(text)


@contextmanager
def showing(show: Callable[[str], None]) -> Iterator[None]:
    """Passes each text of `doing` to a function for the duration of the block."""
    token = _shown.set(show)
    try:
        yield
    finally:
        _shown.reset(token)


def noting(what: str) -> Progress:
    """Returns a progress callable for one case of many. It moves no bar; it shows stage, fraction and organs by `doing`.

    Args:
        what: name of the case.
    """
    organs = OrganShares()

    def noted(stage: str, share: float, organ: int | None = None) -> None:
        ready = organs.add(stage, share, organ)
        if organ is None:
            doing(f"{what}: {stage} {share:.0%}{', ' if ready else ''}{ready}")

    return noted


class OrganShares:
    """The completed fraction of each organ of the current stage."""

    def __init__(self) -> None:
        self._stage, self._shares = "", dict[int, float]()

    def add(self, stage: str, share: float, organ: int | None) -> str:
        """Notes the arguments of a progress callable; returns how many organs are ready, empty if the stage has no organs."""
        if stage != self._stage:
            self._stage = stage
            self._shares.clear()
        if organ is not None:
            self._shares[organ] = share
        return f"{sum(one >= 1 for one in self._shares.values())} of {len(self._shares)} organs ready" if self._shares else ""
