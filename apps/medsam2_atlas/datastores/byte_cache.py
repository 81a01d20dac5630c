"""A cache with a limit in bytes, from which the entry that was used longest ago is removed first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteCache(Generic[T]):
    """Entries by name, up to a limit in bytes; the last one is kept even if it exceeds the limit. Thread-safe.

    Concurrency contract. One lock guards the entries and is held only to read or change them.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[T], int]) -> None:
        """Creates an empty cache.

        Args:
            max_bytes: max number of bytes of all entries together.
            size_of: returns the number of bytes of an entry.
        """
        self._max_bytes, self._size_of = max_bytes, size_of
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, T] = OrderedDict()
        self._cleared = 0

    @property
    def cleared(self) -> int:
        """How often the cache was cleared. Whoever makes an entry reads it first, and passes it to `put`."""
        with self._lock:
            return self._cleared

    def get(self, name: str) -> T | None:
        """Returns an entry; None if there is none."""
        with self._lock:
            if name in self._entries:
                self._entries.move_to_end(name)
            return self._entries.get(name)

    def put(self, name: str, entry: T, cleared: int | None = None) -> None:
        """Adds or replaces an entry, and removes old ones until the limit holds.

        Args:
            name: name of the entry.
            entry: the entry.
            cleared: `cleared` before the entry was made. If the cache was cleared meanwhile, the entry is not kept, because it
                may be data that had to go, such as an erased CT. By default, it is kept.
        """
        with self._lock:
            if cleared not in (None, self._cleared):
                return
            self._entries[name] = entry
            self._entries.move_to_end(name)
            total = sum(map(self._size_of, self._entries.values()))
            while total > self._max_bytes and len(self._entries) > 1:
                _, removed = self._entries.popitem(last=False)
                total -= self._size_of(removed)

    def clear(self) -> None:
        """Removes all entries."""
        with self._lock:
            self._entries.clear()
            self._cleared += 1
