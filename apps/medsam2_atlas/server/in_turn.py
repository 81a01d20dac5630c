"""Work on a whole CT that a request needs: one after the other, so that many requests take the memory of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


async def in_turn(work: Callable[[], T]) -> T:
    """Returns what a function returns, which runs in a thread once all earlier ones have ended. Other threads stay free."""
    return await to_thread.run_sync(work, limiter=_one())


@cache
def _one() -> CapacityLimiter:
    return CapacityLimiter(1)
