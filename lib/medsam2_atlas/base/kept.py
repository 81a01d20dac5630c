"""Results that are computed again only if the objects that they are derived from were replaced by others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

S = TypeVar("S")
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


class KeptEach(Generic[S, T]):
    """The last results of many objects. Several threads may use it; they may compute the same result twice."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[S, T]] = {}

    def of(self, sources: Iterable[tuple[Hashable, S]], make: Callable[[S], T]) -> list[T]:
        """Returns the result of each object, in their order; those of objects that are no longer among them are forgotten.

        Args:
            sources: the objects with their keys; nobody changes them. They are compared by identity.
            make: computes the result of an object.
        """
        last, now = self._last, dict[Hashable, tuple[S, T]]()
        for key, source in sources:
            known = last.get(key)
            now[key] = known if known is not None and known[0] is source else (source, make(source))
        self._last = now
        return [result for _, result in now.values()]
