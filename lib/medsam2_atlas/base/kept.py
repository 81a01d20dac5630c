"""A result that is computed again only if the object that it is derived from was replaced by another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last result. Several threads may use it; they may compute the same result twice."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Any, ...], T] | None = None

    def of(self, sources: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Returns the result for some objects.

        Args:
            sources: the objects that the result is derived from; nobody changes them. They are compared by identity.
            make: computes the result.

        Example:
            >>> kept, numbers = Kept[int](), [1, 2]
            >>> kept.of((numbers,), lambda: sum(numbers)), kept.of((numbers,), lambda: 0), kept.of(([1, 2],), lambda: 0)
            (3, 3, 0)
        """
        last = self._last
        if last is not None and len(last[0]) == len(sources) and all(a is b for a, b in zip(last[0], sources, strict=True)):
            return last[1]
        result = make()
        self._last = (sources, result)
        return result
