"""A database that another process is writing to is used, and not replaced by a copy in memory."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from medsam2_atlas.base import database as module
from medsam2_atlas.base.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS words (word TEXT)"


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_file_that_another_process_has_locked_is_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(module, "_SHORT_SECONDS", 0.02)
    Database(tmp_path / "t.sqlite", SCHEMA)
    with closing(sqlite3.connect(tmp_path / "t.sqlite", isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"BEGIN {lock}")
        other.execute("INSERT INTO words VALUES ('theirs')")
        opened = Database(tmp_path / "t.sqlite", SCHEMA)
        assert not opened.fallback
        commit = threading.Timer(0.2, other.execute, ["COMMIT"])
        commit.start()
        opened.write(lambda database: database.execute("INSERT INTO words VALUES ('ours')"))
        commit.join()
    again = Database(tmp_path / "t.sqlite", SCHEMA)
    assert again.read(lambda database: database.execute("SELECT word FROM words").fetchall()) == [("theirs",), ("ours",)]


def add(database: Database, word: str) -> None:
    database.write(lambda base: base.execute("INSERT INTO words VALUES (?)", (word,)))


def test_the_state_changes_with_each_write_of_any_process_and_only_then(tmp_path: Path) -> None:
    database, other = (Database(tmp_path / "t.sqlite", SCHEMA) for _ in range(2))
    seen = [database.state()]
    for writer in (database, other):
        add(writer, "x")
        assert database.state() not in seen
        seen.append(database.state())
        assert database.read(lambda base: base.execute("SELECT count(*) FROM words").fetchone()[0]) == len(seen) - 1
        assert database.state() == seen[-1], "reading changes nothing"
    (tmp_path / "t.sqlite").unlink()
    database.check()
    assert database.state() not in seen


def test_the_state_is_unknown_while_somebody_writes_and_nobody_waits_for_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "t.sqlite", SCHEMA)
    with closing(sqlite3.connect(tmp_path / "t.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert database.state() != database.state()
        assert time.monotonic() - began < 1
        other.execute("COMMIT")
    assert database.state() == database.state()


def test_the_state_of_tables_in_memory_changes_with_each_write(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").mkdir()
    database = Database(tmp_path / "t.sqlite", SCHEMA)
    assert database.fallback
    before = database.state()
    assert database.state() == before
    add(database, "x")
    assert database.state() != before
    with database.writing():
        assert database.state() != database.state(), "what is not committed may be rolled back"
