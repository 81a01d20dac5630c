"""Applies a function to many arguments, one after the other or at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from typing import Any, Protocol

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.processors import processors

_MAX_CALLS = 4
"""Each registration has features of two CTs in memory, so a machine with many CPUs runs few, unless a user asks for more."""


class KilledError(MedSAM2AtlasError):
    """A call did not end, because the processes that ran it were killed again and again."""


class Map(Protocol):
    """Applies a function of a module to many arguments. The function can be repeated, and depends on its arguments alone."""

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yields the number of each argument and the result, in the order in which they end.

        The result is a `KilledError` if the processes that ran the call were killed.

        Args:
            function: the function.
            arguments: its arguments, for each call.
        """
        ...


def in_turn(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Calls a function in this thread, one argument after the other.

    >>> list(in_turn(max, [(1, 2), (5, 4)]))
    [(0, 2), (1, 5)]
    """
    for number, one in enumerate(arguments):
        yield number, function(*one)


def side_by_side(count: int = 0) -> Map:
    """Returns a map whose calls run at the same time in threads of this process, each with one thread of PyTorch.

    A registration computes with many small tensors. Several registrations at the same time use the cores better than one
    with many threads, and results do not depend on the number of cores. This is for commands, because other threads of the
    process that begin meanwhile get one thread of PyTorch, too.

    Args:
        count: max number of calls at the same time; 0: one for each CPU that this process may use, at most 4.
    """

    def mapped(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        import torch  # the other maps need no PyTorch

        def called(one: tuple[Any, ...]) -> Any:
            torch.set_num_threads(1)
            return function(*one)

        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(count or min(processors(), _MAX_CALLS))
        try:
            futures = {pool.submit(copy_context().run, called, one): number for number, one in enumerate(arguments)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # after an error or an interruption, running calls end, and no further ones begin
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    return mapped
