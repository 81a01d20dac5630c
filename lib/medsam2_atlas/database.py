"""SQLite files that several processes and threads use at once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_WAIT_SECONDS = 60.0
_TRIES = 50


def prepare(file: Path, schema: str) -> None:
    """Makes the file, its folder and its tables where they do not exist, in WAL mode: readers wait for nobody.

    Where WAL cannot be had, as on some network drives, SQLite's own mode stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=_WAIT_SECONDS)) as database:
        for _ in range(_TRIES):  # SQLite does not wait by itself where another process is just changing the mode
            try:
                database.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                time.sleep(0.02)
        database.executescript(schema)


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection for questions."""
    with closing(sqlite3.connect(file, timeout=_WAIT_SECONDS)) as database:
        yield database


@contextmanager
def writing(file: Path) -> Iterator[sqlite3.Connection]:
    """The only writer for as long as the block takes; its changes are kept, or none of them where it fails."""
    with closing(sqlite3.connect(file, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
