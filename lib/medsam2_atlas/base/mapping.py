"""Applies a function to many arguments, one after the other or elsewhere at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Map(Protocol):
    """Applies a function of a module to many arguments. The function can be repeated, and depends on its arguments alone."""

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yields the number of each argument and the result, in the order in which they end.

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
