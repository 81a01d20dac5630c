"""The token file: the users, their tokens and the expiry of each token. It is read again when it changes.

A change takes effect within about a second; a user removed from the file loses access then, with all logins. If the file cannot
be used (half-written, missing, readable by everybody), its last usable content stays valid for `_GRACE_SECONDS`, so that saving
it in two steps locks nobody out. After that, no token of the file is accepted until the file can be used again.

The file's index contains checksums of tokens, so the time of a look-up reveals nothing about a token.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.access.token_entries import read_tokens
from medsam2_atlas.base.errors import InputError
from server.people import User

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """A user in the file and the expiry of the token, in seconds of `time.time`."""

    user: User
    expires: float


class TokenFile:
    """The users by the checksums of their tokens. Safe for several threads."""

    def __init__(
        self,
        file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the file.

        Args:
            file: token file (YAML); see docs/access.md.
            clock: a monotonic clock in seconds.
            wall_clock: returns the seconds since 1970; compared with the expiry of tokens.

        Raises:
            InputError: the file cannot be used.
        """
        self._file, self._clock, self._wall_clock = file, clock, wall_clock
        self._lock = threading.Lock()
        self._entries, self._stamp = _read(file)
        self._looked = clock()
        self._problem, self._broken = "", math.inf
        self.on_change: Callable[[frozenset[User], frozenset[User], str], None] = lambda *_: None
        """Called with the previous users, the present users, and the problem of the file (empty if there is none)."""

    @property
    def problem(self) -> str:
        """The reason why the present file cannot be used; empty if it can."""
        self._look()
        return self._problem

    @property
    def people(self) -> frozenset[User]:
        """All users in the file."""
        return frozenset(entry.user for entry in self._entries.values())

    def entry(self, digest: str) -> Entry | None:
        """Returns the entry of a token; None if the token is unknown or has expired.

        Args:
            digest: SHA-256 of the token, in lower-case hexadecimal digits.
        """
        self._look()
        if self._clock() - self._broken > _GRACE_SECONDS:
            return None
        found = self._entries.get(digest)
        return found if found is not None and self._wall_clock() < found.expires else None

    def _look(self) -> None:
        """Reads the file again if it has changed. Checks at most once a second, in one thread at a time."""
        if self._clock() - self._looked < _LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = self._clock()
            if self._stamp is not None and _stamp(self._file) == self._stamp and not self._problem:
                return
            before, was_broken = self.people, bool(self._problem)
            self._entries, self._stamp = _read(self._file)
            self._problem, self._broken = "", math.inf
            if was_broken or before != self.people:  # a recently changed file is read several times
                log.info("the token file has been read again: %d users", len(self._entries))
                self.on_change(before, self.people, "")
        except InputError as error:
            was_broken, self._problem = bool(self._problem), str(error)
            if not was_broken:
                self._broken = self._clock()
                log.error("%s Its last content stays valid for %.0f s; then its tokens are refused.", error, _GRACE_SECONDS)
                self.on_change(self.people, self.people, str(error))
        finally:
            self._lock.release()


def _read(file: Path) -> tuple[dict[str, Entry], tuple[int, ...] | None]:
    """Returns the entries of a file by the SHA-256 of their tokens, and a stamp that changes with the file."""
    stamp = _stamp(file)
    found = read_tokens(file)
    return {d: Entry(User(one.name, one.role, f"token:{one.name}"), one.expires) for d, one in found.items()}, stamp


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Returns numbers that change with a file; None if the file is so new that they could miss a change."""
    try:
        about = file.stat()
    except OSError:
        return None
    fresh = abs(time.time() - about.st_mtime) < 2 * _LOOK_SECONDS
    return None if fresh else (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
