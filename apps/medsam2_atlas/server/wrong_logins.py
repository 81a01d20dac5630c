"""Slows down guessing: after 20 wrong logins within a minute, a client address has to wait.

For IPv6, the first half of the address counts, because one customer has all addresses that share it. Behind a proxy, uvicorn
takes the address from `X-Forwarded-For` if the proxy's address is in `FORWARDED_ALLOW_IPS` (127.0.0.1 by default).

A login counts as wrong as soon as its check begins; the count is undone if the login was right or could not be checked. So
many simultaneous logins cannot evade the limit. Only wrong tokens and logins by password wait; a valid token or cookie is
always accepted.
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
_ADDRESSES = 10_000


class TooManyWrongError(Exception):
    """Too many wrong logins have come from an address, which has to wait `seconds`."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"Too many wrong logins from this address. Try again in {seconds} s.")


class WrongLogins:
    """The wrong logins of the last minute by client address. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_addresses: int = _ADDRESSES) -> None:
        """Creates an empty record.

        Args:
            clock: a monotonic clock in seconds.
            max_addresses: max number of remembered addresses; the ones without a wrong login for the longest time are dropped.
        """
        self._clock, self._max = clock, max_addresses
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses)

    def wait(self, address: str) -> int:
        """Returns the seconds that an address has to wait; 0 if it need not wait."""
        with self._lock:
            return self._wait(address)

    def begin(self, address: str) -> None:
        """Counts a login as wrong, until `forgive` undoes it.

        Raises:
            TooManyWrongError: the address has to wait.
        """
        with self._lock:
            wait = self._wait(address)
            if wait:
                raise TooManyWrongError(wait)
            self._addresses.setdefault(address, deque()).append(self._clock())
            self._addresses.move_to_end(address)
            while len(self._addresses) > self._max:
                self._addresses.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Undoes the last count of an address."""
        with self._lock:
            times = self._addresses.get(address)
            if times:
                times.pop()
            if not times:
                self._addresses.pop(address, None)

    def _wait(self, address: str) -> int:
        times, now = self._addresses.get(address), self._clock()
        while times and now - times[0] >= _SECONDS:
            times.popleft()
        return max(1, math.ceil(times[0] + _SECONDS - now)) if times and len(times) >= _MAX_WRONG else 0


def client_address(scope: Scope) -> str:
    """Returns the client address of a request; for IPv6, its first half followed by zeros.

    >>> client_address({"type": "http", "client": ("2001:db8::17", 50000)})
    '2001:db8::'
    """
    host = str((scope.get("client") or ("", 0))[0])[:64]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)
