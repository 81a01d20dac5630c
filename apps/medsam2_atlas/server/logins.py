"""Logins of browsers, each identified by a cookie.

A cookie contains only a random text. The server keeps the text's checksum and its user in memory only, so a restart of the
server ends all logins. A login ends `seconds` after it began, after `idle` seconds without a request, when its token expires,
when the user logs out, or when the user has begun `_KEPT_EACH` newer logins.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.people import User

_KEPT_EACH = 20
_KEPT = 5000
_BYTES = 32


@dataclass(frozen=True)
class Proof:
    """The proof of a user's identity.

    Attributes:
        user: the user whom the token or password identifies.
        digest: SHA-256 of the user's token in the token file; empty if the issuer has confirmed the user.
        ends: time at which the proof expires, in seconds of `time.time`.
    """

    user: User
    digest: str = ""
    ends: float = float("inf")


@dataclass
class _Login:
    proof: Proof
    began: float
    used: float


class Logins:
    """The logins of this server. Safe for several threads."""

    def __init__(
        self,
        *,
        seconds: float,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Creates an empty set of logins.

        Args:
            seconds: max duration of a login, in seconds.
            idle: max seconds without a request.
            clock: a monotonic clock in seconds.
            wall_clock: returns the seconds since 1970; compared with the ends of proofs.
        """
        self._seconds, self._idle, self._clock, self._wall_clock = seconds, idle, clock, wall_clock
        self._lock = threading.Lock()
        self._logins: OrderedDict[str, _Login] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logins)

    def begin(self, proof: Proof) -> str:
        """Begins a login and returns a new random text for its cookie."""
        key = secrets.token_urlsafe(_BYTES)
        now = self._clock()
        with self._lock:
            own = [digest for digest, login in self._logins.items() if login.proof.user.id == proof.user.id]
            for digest in own[: max(0, len(own) - _KEPT_EACH + 1)]:
                del self._logins[digest]
            self._logins[_digest(key)] = _Login(proof, now, now)
            while len(self._logins) > _KEPT:
                self._logins.popitem(last=False)
        return key

    def find(self, key: str) -> Proof | None:
        """Returns the proof of a cookie's login and counts this as a use; None if there is no such login or it has ended."""
        digest, now = _digest(key), self._clock()
        with self._lock:
            login = self._logins.get(digest)
            if login is None:
                return None
            late = now - login.began > self._seconds or now - login.used > self._idle
            if late or self._wall_clock() >= login.proof.ends:
                del self._logins[digest]
                return None
            login.used = now
            return login.proof

    def end(self, key: str) -> None:
        """Ends a login."""
        with self._lock:
            self._logins.pop(_digest(key), None)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
