"""Runs requests' work on whole CTs one after the other, so that many requests need the memory of only one CT."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


async def in_turn(work: Callable[[], T]) -> T:
    """Runs a function in a thread after all earlier ones have ended and returns its result. Other threads stay free."""
    return await to_thread.run_sync(work, limiter=_one())


@cache
def _one() -> CapacityLimiter:
    return CapacityLimiter(1)
