"""Repetitions within some time, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

_MAX_KEYS = 20_000


class Throttle:
    """Lets the first of equal events through, and those after some time. Must be used by one thread at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: returns seconds."""
        self._now = now
        self._seen: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def passes(self, event: tuple[object, ...], seconds: float) -> int | None:
        """Returns how many equal events were held back since the last one that passed; None if this one is held back.

        Args:
            event: its parts; equal events have equal parts.
            seconds: time in which one event passes.
        """
        # Clients choose some parts, and how long they are: 20,000 texts of 60 KB would be 1.2 GB.
        key = blake2b(repr(event).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        now = self._now()
        began, held = self._seen.get(key, (float("-inf"), 0))
        if now - began < seconds:
            self._seen[key] = began, held + 1
            return None
        self._seen.pop(key, None)
        self._seen[key] = now, 0
        while len(self._seen) > _MAX_KEYS:
            self._seen.popitem(last=False)
        return held
