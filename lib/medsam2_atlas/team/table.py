"""Stores the figures of all versions in one SQLite file. The background writes it; requests read it.

If the file is lost, the background fills it again from the versions of the label maps.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

from medsam2_atlas.base.database import Database
from medsam2_atlas.team.record import Record

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    study TEXT NOT NULL, number INTEGER NOT NULL, mark TEXT NOT NULL, made TEXT NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (study, number)
);
CREATE TABLE IF NOT EXISTS studies (study TEXT PRIMARY KEY, newest TEXT NOT NULL);
"""


class FigureTable:
    """The figures of all versions. Safe for several processes and threads."""

    def __init__(self, file: Path) -> None:
        """Opens the file, or creates it. On a read-only disk, the figures are kept in memory."""
        self._base = Database(file, _SCHEMA, version=2, durable=False)

    def records(self, since: str = "") -> list[Record]:
        """Returns the records by time.

        Args:
            since: the earliest time of the sign-off, ISO 8601, UTC; its beginning is enough. By default, all records.
        """
        query = "SELECT record FROM versions WHERE made >= ? ORDER BY made, study, number"
        found = []
        for (text,) in self._base.read(lambda base: base.execute(query, (since,)).fetchall()):
            try:
                found.append(Record.from_json(json.loads(text)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("a record of the team's figures cannot be read: %s", error)
        return found

    def measured(self) -> dict[str, str]:
        """Returns the mark of the newest version of each study at the time when its figures were computed."""
        return dict(self._base.read(lambda base: base.execute("SELECT study, newest FROM studies").fetchall()))

    def known(self, study: str) -> dict[int, str]:
        """Returns the marks of a study's versions that have a record, by number."""
        query = "SELECT number, mark FROM versions WHERE study = ?"
        return dict(self._base.read(lambda base: base.execute(query, (study,)).fetchall()))

    def put(self, study: str, newest: str, records: Sequence[tuple[str, Record]], kept: Collection[int]) -> None:
        """Stores the new records of a study.

        Args:
            study: name of the study.
            newest: mark of its newest version.
            records: the new records, each with the mark of its version.
            kept: numbers of the versions whose records stay; other earlier records are removed.
        """
        rows = [(study, one.number, mark, one.made, json.dumps(one.as_json())) for mark, one in records]

        def change(base: sqlite3.Connection) -> None:
            for (number,) in base.execute("SELECT number FROM versions WHERE study = ?", (study,)).fetchall():
                if number not in kept:
                    base.execute("DELETE FROM versions WHERE study = ? AND number = ?", (study, number))
            base.executemany("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?)", rows)
            base.execute("INSERT OR REPLACE INTO studies VALUES (?, ?)", (study, newest))

        self._base.write(change)

    def drop(self, studies: Collection[str]) -> None:
        """Removes studies, for example after an erasure."""

        def change(base: sqlite3.Connection) -> None:
            for table in ("versions", "studies"):
                base.executemany(f"DELETE FROM {table} WHERE study = ?", [(study,) for study in studies])

        if studies:
            self._base.write(change)
