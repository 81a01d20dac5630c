"""Remembers who works on which case, so that others can see it and get other cases next.

A person claims a case by opening it, by saving a draft, or with "next case". A claim ends after half an hour of silence, when
its person signs the case off, or when it is released. A person keeps the last `MAX_OPENED` cases; an older claim ends. Opening
a case that is already signed off, or that another person holds, claims nothing: the person is only listed among those who have
it open, and works on it from the first draft on. If several people work on a case, the first of them holds the claim.

Claims are advice. They never keep anybody from saving: versions and checks of conflicts protect the label maps. Therefore no
method raises an error of the disk, and a lost file costs the claims and the active times of unfinished work only.

The file, `claims.sqlite` in the work folder, survives a restart of the server. Its table `work` contains the seconds of
activity of a person on a case (`ACTIVE_GAP_SECONDS`) until the person signs the case off.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from medsam2_atlas.base.database import Database
from medsam2_atlas.base.errors import ClaimedError, MedSAM2AtlasError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

CLAIM_SECONDS = 30 * 60
"""Time in seconds without a sign of activity after which a claim ends, and an opened case counts as closed."""
ACTIVE_GAP_SECONDS = 5 * 60
"""Max time in seconds between two activities of a person on a case that counts as active; a longer gap counts as a pause."""
MAX_OPENED = 20
"""Max number of cases that a person has open; opening another one closes the one without activity for the longest time. People
without logins count as one person."""
_WORK_DAYS = 90
"""Days after which the seconds of unfinished work are dropped."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS opened (
    study TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, since REAL NOT NULL, seen REAL NOT NULL,
    claims INTEGER NOT NULL, PRIMARY KEY (study, id)
);
CREATE TABLE IF NOT EXISTS work (
    study TEXT NOT NULL, id TEXT NOT NULL, seen REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (study, id)
);
"""


@dataclass(frozen=True)
class Claim:
    """A person who has a case open.

    Attributes:
        person: name of the person; empty on a server without logins.
        id: unique id of the person.
        since: the time at which it was claimed or opened, in seconds since 1970.
        claims: whether the person works on the case; False if they only view a signed-off one.
    """

    person: str
    id: str
    since: float
    claims: bool = True

    def as_dict(self) -> dict[str, str]:
        """Returns the claim for clients: the person's name, and the time as ISO 8601, UTC."""
        since = datetime.fromtimestamp(self.since, timezone.utc).isoformat(timespec="seconds")
        return {"person": self.person, "since": since}


@dataclass(frozen=True)
class Claims:
    """All claims at one moment."""

    _opened: dict[str, list[Claim]] = field(default_factory=dict)

    def of(self, study: str) -> Claim | None:
        """Returns the claim of a case; None if nobody works on it."""
        return next((one for one in self._opened.get(study, ()) if one.claims), None)

    def opened(self, study: str) -> list[Claim]:
        """Returns all people who have a case open, in the order in which they opened it."""
        return list(self._opened.get(study, ()))

    def studies(self) -> list[str]:
        """Returns the names of all cases that somebody has open."""
        return list(self._opened)


class CaseClaims:
    """The claims of a server's cases. Safe for several processes and threads: each change is one transaction."""

    def __init__(
        self, file: Path, clock: Callable[[], float] = time.time, *, erased: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Opens the file, or creates it. On a read-only disk, claims are kept in memory.

        Args:
            file: the database file.
            clock: returns the time in seconds since 1970.
            erased: returns whether a case was just erased. An erasure removes claims; one that is recorded at the same time
                must not keep the name of the case.
        """
        self._clock, self._erased = clock, erased
        self._base = Database(file, _SCHEMA, durable=False)

    def all(self) -> Claims:
        """Returns all claims with one query."""
        query = "SELECT study, name, id, since, claims FROM opened WHERE seen > ? ORDER BY since, id"
        try:
            rows = self._base.read(lambda base: base.execute(query, (self._clock() - CLAIM_SECONDS,)).fetchall())
        except sqlite3.Error as error:
            log.warning("claims of cases cannot be read: %s", error)
            return Claims()
        found: dict[str, list[Claim]] = {}
        for study, name, person_id, since, claims in rows:
            found.setdefault(study, []).append(Claim(name, person_id, since, bool(claims)))
        return Claims(found)

    def of(self, study: str) -> Claim | None:
        """Returns the claim of a case; None if nobody works on it."""
        return self.all().of(study)

    def open(self, study: str, person_id: str, name: str, *, works: bool = True) -> None:
        """Records that a person opens a case. Who has begun to work on a case continues to do so.

        Args:
            study: name of the case.
            person_id: unique id of the person.
            name: name of the person.
            works: whether the person works on the case if no other person does; False for one that is signed off.
        """

        def change(base: sqlite3.Connection) -> None:
            now = self._begun(base)
            holder = _holder(base, study)
            _active(base, study, person_id, name, now, works and (holder is None or holder.id == person_id))

        self._record(study, change)

    def touch(self, study: str, person_id: str, name: str) -> None:
        """Records that a person works on a case, such as by saving a draft.

        Args:
            study: name of the case.
            person_id: unique id of the person.
            name: name of the person.
        """
        self._record(study, lambda base: _active(base, study, person_id, name, self._begun(base), True))

    def claim(self, study: str, person_id: str, name: str) -> Claim | None:
        """Claims a case for a person, or renews the person's claim; returns None if the disk fails, or if it was just erased.

        Raises:
            ClaimedError: another person works on the case.
        """

        def change(base: sqlite3.Connection) -> Claim:
            now = self._begun(base)
            holder = _holder(base, study)
            if holder is not None and holder.id != person_id:
                return holder
            _keep(base, study, person_id, name, now, True)
            return _holder(base, study) or Claim(name, person_id, now)

        found = self._record(study, change)
        if found is not None and found.id != person_id:
            claimed = found.as_dict()
            who = found.person or "another person"
            raise ClaimedError(study, f"has been claimed by {who} since {claimed['since']}.", "Choose another case.", claimed)
        return found

    def release(self, study: str, person_id: str) -> None:
        """Ends the claim of a person on a case."""
        self._change(lambda base: base.execute("DELETE FROM opened WHERE study = ? AND id = ?", (study, person_id)))

    def active_seconds(self, study: str, person_id: str) -> float:
        """Returns the seconds of a person's activity on a case, since their first activity or their last sign-off of it."""
        query, now = "SELECT seen, seconds FROM work WHERE study = ? AND id = ?", self._clock()
        try:
            row = self._base.read(lambda base: base.execute(query, (study, person_id)).fetchone())
        except sqlite3.Error as error:
            log.warning("the time of work on a case cannot be read: %s", error)
            return 0.0
        return float(row[1]) + _counted(now - row[0]) if row else 0.0

    def finish(self, study: str, person_id: str) -> None:
        """Ends the claim of a person who has signed off a case, and the count of their seconds."""

        def change(base: sqlite3.Connection) -> None:
            for table in ("opened", "work"):
                base.execute(f"DELETE FROM {table} WHERE study = ? AND id = ?", (study, person_id))

        self._change(change)

    def _begun(self, base: sqlite3.Connection) -> float:
        """Removes what has expired; returns the time."""
        now = self._clock()
        # Times in the future are from before the clock was set back.
        base.execute("UPDATE opened SET seen = ?1, since = min(since, ?1) WHERE seen > ?1", (now,))
        base.execute("UPDATE work SET seen = ?1 WHERE seen > ?1", (now,))
        base.execute("DELETE FROM opened WHERE seen <= ?", (now - CLAIM_SECONDS,))
        base.execute("DELETE FROM work WHERE seen <= ?", (now - _WORK_DAYS * 86400,))
        return now

    def _record(self, study: str, change: Callable[[sqlite3.Connection], _Answer]) -> _Answer | None:
        """Makes a change of a case; returns None, and keeps nothing of the case, if it was just erased."""
        answer = self._change(change)
        try:
            erased = self._erased(study)
        except MedSAM2AtlasError as error:
            log.warning("whether a case was erased is unknown: %s", error)
            return answer
        if not erased:
            return answer

        def forget(base: sqlite3.Connection) -> None:
            base.execute("PRAGMA secure_delete=ON")
            for table in ("opened", "work"):
                base.execute(f"DELETE FROM {table} WHERE study = ?", (study,))

        self._change(forget)
        return None

    def _change(self, change: Callable[[sqlite3.Connection], _Answer]) -> _Answer | None:
        """Makes a change; returns None, and logs the error, if the disk fails."""
        try:
            return self._base.write(change)
        except sqlite3.Error as error:
            log.warning("a claim of a case cannot be recorded: %s", error)
            return None


def _counted(gap: float) -> float:
    """Returns the seconds between two activities that count as active."""
    return gap if 0 <= gap <= ACTIVE_GAP_SECONDS else 0.0


def _active(base: sqlite3.Connection, study: str, person_id: str, name: str, now: float, works: bool) -> None:
    """Records an activity of a person on a case, and the seconds since the last one if the person works on it."""
    works = _keep(base, study, person_id, name, now, works)
    row = base.execute("SELECT seen, seconds FROM work WHERE study = ? AND id = ?", (study, person_id)).fetchone()
    seconds = row[1] + (_counted(now - row[0]) if works else 0.0) if row else 0.0
    base.execute("INSERT OR REPLACE INTO work VALUES (?, ?, ?, ?)", (study, person_id, now, seconds))


def _keep(base: sqlite3.Connection, study: str, person_id: str, name: str, now: float, works: bool) -> bool:
    """Adds or renews the row of a person; returns whether the person works on the case. A claim begins with the work."""
    key = (study, person_id)
    row = base.execute("SELECT since, claims FROM opened WHERE study = ? AND id = ?", key).fetchone()
    claims = works or bool(row and row[1])
    since = row[0] if row and bool(row[1]) == claims else now
    base.execute("INSERT OR REPLACE INTO opened VALUES (?, ?, ?, ?, ?, ?)", (*key, name, since, now, claims))
    others = "SELECT rowid FROM opened WHERE id = ? AND study != ? ORDER BY seen DESC, since DESC LIMIT -1 OFFSET ?"
    base.execute(f"DELETE FROM opened WHERE rowid IN ({others})", (person_id, study, MAX_OPENED - 1))
    return claims


def _holder(base: sqlite3.Connection, study: str) -> Claim | None:
    query = "SELECT name, id, since FROM opened WHERE study = ? AND claims ORDER BY since, id LIMIT 1"
    row = base.execute(query, (study,)).fetchone()
    return Claim(*row) if row else None
