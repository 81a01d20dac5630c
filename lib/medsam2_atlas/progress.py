"""One way to tell how far a long job is: a callable that is given a stage's name and its share done, 0..1."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(stage: str, share: float) -> None:
    """Tells nobody."""
