"""Slows down guessing: after 20 wrong logins within a minute, a place waits.

A place is the address of a client, or the first half of an IPv6 address, which one customer has to themselves. Behind a proxy,
Uvicorn takes the address from `X-Forwarded-For`, if the proxy's address is in `FORWARDED_ALLOW_IPS` (127.0.0.1 by default).

A login counts from the moment it is checked, and is forgiven if it was right or could not be checked: many at once do not get
around the limit. Only wrong tokens and logins by password wait: a good token or cookie is always accepted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from starlette.types import Scope

_MAX_WRONG = 20
_SECONDS = 60.0
_PLACES = 10_000


class TooManyWrongError(Exception):
    """A place has to wait. seconds: how long."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"Too many wrong logins from this address. Try again in {seconds} s.")


class WrongLogins:
    """The wrong logins of the last minute by place. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, places: int = _PLACES) -> None:
        """
        Args:
            clock: returns seconds that never go back.
            places: max number of places that are remembered; the ones that have been quiet for the longest are dropped first.
        """
        self._clock, self._kept = clock, places
        self._lock = threading.Lock()
        self._places: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def wait(self, place: str) -> int:
        """Returns the seconds that a place has to wait, or 0."""
        with self._lock:
            return self._wait(place)

    def begin(self, place: str) -> None:
        """Counts a login as wrong, until `forgive`.

        Raises:
            TooManyWrongError: the place has to wait.
        """
        with self._lock:
            wait = self._wait(place)
            if wait:
                raise TooManyWrongError(wait)
            self._places.setdefault(place, deque()).append(self._clock())
            self._places.move_to_end(place)
            while len(self._places) > self._kept:
                self._places.popitem(last=False)

    def forgive(self, place: str) -> None:
        """Takes back the last count of a place."""
        with self._lock:
            times = self._places.get(place)
            if times:
                times.pop()
            if not times:
                self._places.pop(place, None)

    def _wait(self, place: str) -> int:
        times, now = self._places.get(place), self._clock()
        while times and now - times[0] >= _SECONDS:
            times.popleft()
        return max(1, math.ceil(times[0] + _SECONDS - now)) if times and len(times) >= _MAX_WRONG else 0


def place_of(scope: Scope) -> str:
    """Returns the place that a request comes from."""
    host = str((scope.get("client") or ("", 0))[0])[:64]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)
