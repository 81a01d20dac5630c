"""Suppresses repeated events for some time, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

_MAX_KEYS = 20_000


class Throttle:
    """Passes the first of equal events and suppresses the others for some time. Not safe for several threads.

    >>> throttle = Throttle(lambda: 0.0)
    >>> throttle.passes(("read", "ct"), 60), throttle.passes(("read", "ct"), 60)
    (0, None)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Creates an empty throttle.

        Args:
            now: a monotonic clock in seconds.
        """
        self._now = now
        self._seen: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def passes(self, event: tuple[object, ...], seconds: float) -> int | None:
        """Returns the number of equal events suppressed since the last one that passed; None if this event is suppressed.

        Args:
            event: the parts of the event; events with equal parts are equal.
            seconds: time in which only one of equal events passes.
        """
        # Clients choose some parts and their length: 20,000 texts of 60 KB would need 1.2 GB.
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
