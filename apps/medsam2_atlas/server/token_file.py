"""The file of tokens: who may log in with which token, and until when. It is read again when it changes.

A change counts within about a second: a person who is taken out of the file loses access then, and so do their logins. While
the file cannot be used (half-written, missing, readable by others), its last usable content counts for `_GRACE_SECONDS`, so
that saving it in two steps locks nobody out. After that, nobody is let in until the file can be used again.

Checksums of tokens are looked up directly: how long that takes tells nothing about a token.
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
    """A person of the file. expires: when the token ends, in seconds of `time.time`."""

    user: User
    expires: float


class TokenFile:
    """People by the checksums of their tokens. Safe for several threads."""

    def __init__(
        self,
        file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            file: see docs/access.md.
            clock: returns seconds that never go back.
            wall_clock: returns seconds since 1970, for the ends of tokens.

        Raises:
            InputError: the file cannot be used.
        """
        self._file, self._clock, self._wall_clock = file, clock, wall_clock
        self._lock = threading.Lock()
        self._entries, self._stamp = _read(file)
        self._looked = clock()
        self._problem, self._broken = "", math.inf
        self.told: Callable[[frozenset[User], frozenset[User], str], None] = lambda *_: None

    @property
    def problem(self) -> str:
        """Returns why the file as it is now cannot be used; empty if it can."""
        self._look()
        return self._problem

    @property
    def people(self) -> frozenset[User]:
        """Returns all people of the file."""
        return frozenset(entry.user for entry in self._entries.values())

    def entry(self, digest: str) -> Entry | None:
        """Returns the person of a token's SHA-256, in lower case; None for an unknown or expired token."""
        self._look()
        if self._clock() - self._broken > _GRACE_SECONDS:
            return None
        found = self._entries.get(digest)
        return found if found is not None and self._wall_clock() < found.expires else None

    def _look(self) -> None:
        """Reads the file again if it has changed; looks at most once a second, in one thread."""
        if self._clock() - self._looked < _LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = self._clock()
            if self._stamp is not None and _stamp(self._file) == self._stamp and not self._problem:
                return
            before, was_broken = self.people, bool(self._problem)
            self._entries, self._stamp = _read(self._file)
            self._problem, self._broken = "", math.inf
            if was_broken or before != self.people:  # a file that was changed a moment ago is read several times
                log.info("the file of tokens has been read again: %d people", len(self._entries))
                self.told(before, self.people, "")
        except InputError as error:
            was_broken, self._problem = bool(self._problem), str(error)
            if not was_broken:
                self._broken = self._clock()
                log.error("%s Its last content counts for %.0f s, then nobody is let in by it.", error, _GRACE_SECONDS)
                self.told(self.people, self.people, str(error))
        finally:
            self._lock.release()


def _read(file: Path) -> tuple[dict[str, Entry], tuple[int, ...] | None]:
    """Returns the people of a file by their tokens' SHA-256, and a stamp that changes with the file."""
    stamp = _stamp(file)
    found = read_tokens(file)
    return {d: Entry(User(one.name, one.role, f"token:{one.name}"), one.expires) for d, one in found.items()}, stamp


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Returns numbers that change with a file; None if they could miss a change, because it was changed a moment ago."""
    try:
        about = file.stat()
    except OSError:
        return None
    fresh = abs(time.time() - about.st_mtime) < 2 * _LOOK_SECONDS
    return None if fresh else (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
