"""A database that another process is writing to is used, and not replaced by a copy in memory."""

from __future__ import annotations

import sqlite3
import threading
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
