"""Runs requests' work on whole CTs one after the other, so that many requests need the memory of only one CT.

Uploads wait for each other only: an archive may take minutes, and annotators must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

UPLOADS = "uploads"
ANNOTATION = "annotation"

T = TypeVar("T")


async def in_turn(work: Callable[[], T], queue: str = ANNOTATION) -> T:
    """Runs a function in a thread after all earlier ones have ended and returns its result. Other threads stay free.

    Args:
        work: the function.
        queue: name of the queue; functions in other queues run at the same time.
    """
    return await to_thread.run_sync(work, limiter=_one(queue))


async def in_turn_if_awaited(request: Request, work: Callable[[], T], queue: str) -> T | None:
    """Runs a function as `in_turn`, unless the client has gone when its turn comes; then returns None.

    A page that is left, scrolled or filtered gives up its requests for pictures, and others wait behind them.

    Args:
        request: the request that waits for the result.
        work: the function.
        queue: name of the queue.
    """
    async with _one(queue):
        return None if await request.is_disconnected() else await to_thread.run_sync(work)


@cache
def _one(queue: str) -> CapacityLimiter:
    return CapacityLimiter(1)
