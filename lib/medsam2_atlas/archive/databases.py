"""Copies and checks the SQLite files of a place. A copy shows one state, even while other processes write to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medsam2_atlas.base.scratch import scratch_folder

_WAIT_SECONDS = 30.0


def connected(file: Path) -> sqlite3.Connection:
    """Returns a read-only connection to a database."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)


@contextmanager
def copied_database(file: Path) -> Iterator[Path]:
    """Yields a complete, checked copy of a database; removes it after the block.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be read, or is damaged.
    """
    if not file.exists():
        raise FileNotFoundError(file)
    with scratch_folder() as folder:
        copy = folder / "copy.sqlite"
        try:
            with closing(connected(file)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
                problem = _problem(target)
        except sqlite3.Error as error:
            problem = str(error)
        if problem:
            raise OSError(f"the database is damaged: {problem}")
        yield copy


def database_problem(file: Path) -> str:
    """Returns the problem of a database, or an empty string if there is none."""
    try:
        with closing(connected(file)) as database:
            return _problem(database)
    except sqlite3.Error as error:
        return str(error)


def _problem(database: sqlite3.Connection) -> str:
    found = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
    return "" if found == "ok" else found
