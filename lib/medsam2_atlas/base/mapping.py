"""Applies a function to many arguments, one after the other or elsewhere at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from medsam2_atlas.base.errors import MedSAM2AtlasError


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
