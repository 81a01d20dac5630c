"""Measures of all studies, kept in one SQLite file: written by the background, read when the next case is asked for."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from medsam2_atlas.active_learning.assess import Assessment
from medsam2_atlas.base.database import Database

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measures (
    study TEXT PRIMARY KEY, image TEXT NOT NULL, versions TEXT NOT NULL, made TEXT NOT NULL,
    scores TEXT NOT NULL, why TEXT NOT NULL, problem TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Row:
    """A study's measures. versions: of atlas and models that they were taken with. problem: why there are none."""

    study: str
    image: str
    versions: dict[str, str]
    made: str
    values: dict[str, float]
    why: dict[str, str]
    problem: str = ""

    def current(self, versions: Mapping[str, str]) -> bool:
        """Returns whether the measures were taken with these versions. Earlier releases named no `settings`: any do."""
        unnamed = {"settings"} - self.versions.keys()
        return self.versions == {key: value for key, value in versions.items() if key not in unnamed}


class ScoreTable:
    """The file of measures. Safe for several processes and threads. If it cannot be written, measures are kept in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._database = Database(file, _SCHEMA)

    @property
    def fallback(self) -> str:
        """Returns why measures are kept in memory; empty if they are in the file."""
        return self._database.fallback

    def put(self, study: str, image: str, versions: dict[str, str], assessment: Assessment | None, problem: str = "") -> None:
        """Stores a study's measures, or why they cannot be taken."""
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values, why = (assessment.values, assessment.why) if assessment else ({}, {})
        row = (study, image, json.dumps(versions, sort_keys=True), made, json.dumps(values), json.dumps(why), problem)
        self._database.write(lambda base: base.execute("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)", row))

    def drop(self, study: str) -> None:
        """Removes a study's measures."""

        def change(base: sqlite3.Connection) -> None:
            base.execute("PRAGMA secure_delete=ON")
            base.execute("DELETE FROM measures WHERE study = ?", (study,))

        self._database.write(change)

    def rows(self) -> dict[str, Row]:
        """Returns all measures by study."""
        query = "SELECT study, image, versions, made, scores, why, problem FROM measures"
        found = self._database.read(lambda base: base.execute(query).fetchall())
        return {
            study: Row(study, image, json.loads(versions), made, json.loads(scores), json.loads(why), problem)
            for study, image, versions, made, scores, why, problem in found
        }
