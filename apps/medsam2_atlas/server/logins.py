"""Logins of browsers: what a cookie stands for.

A cookie holds a random text and nothing else. The server knows that text's checksum and whom it stands for, in memory only: the
restart of a server ends all logins. A login ends when it has not been used for `idle` seconds, `seconds` after it began, when
the token that it began with ends, when the person logs out, or when the person has begun `_KEPT_EACH` later ones.
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
    """Why somebody is taken for a person.

    Attributes:
        user: the person.
        digest: SHA-256 of their token in the file of tokens; empty if the issuer has vouched for them.
        ends: when this is no longer true, in seconds of `time.time`.
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
        """
        Args:
            seconds: max duration of a login.
            idle: max seconds without a request.
            clock: returns seconds that never go back.
            wall_clock: returns seconds since 1970, for the ends of proofs.
        """
        self._seconds, self._idle, self._clock, self._wall_clock = seconds, idle, clock, wall_clock
        self._lock = threading.Lock()
        self._logins: OrderedDict[str, _Login] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logins)

    def begin(self, proof: Proof) -> str:
        """Begins a login and returns the text for its cookie, always a new one."""
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
        """Returns what a cookie's login rests on, and counts as its use; None if there is no such login, or it has ended."""
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
