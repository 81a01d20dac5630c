"""Measures of all studies, kept in one SQLite file: written by the background, read when the next case is asked for."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from medsam2_atlas.database import prepare, reading, writing
from medsam2_atlas.learning.assess import Assessment

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


class ScoreTable:
    """The file. Safe for several processes and threads: each call opens it, writes are transactions, WAL lets readers be."""

    def __init__(self, file: Path) -> None:
        self._file = file
        prepare(file, _SCHEMA)

    def put(self, study: str, image: str, versions: dict[str, str], assessment: Assessment | None, problem: str = "") -> None:
        """Stores a study's measures, or why they cannot be taken."""
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values, why = (assessment.values, assessment.why) if assessment else ({}, {})
        row = (study, image, json.dumps(versions, sort_keys=True), made, json.dumps(values), json.dumps(why), problem)
        with writing(self._file) as database:
            database.execute("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def rows(self) -> dict[str, Row]:
        """All measures by study."""
        with reading(self._file) as database:
            found = database.execute("SELECT study, image, versions, made, scores, why, problem FROM measures").fetchall()
        rows = {}
        for study, image, versions, made, scores, why, problem in found:
            try:
                rows[study] = Row(study, image, json.loads(versions), made, json.loads(scores), json.loads(why), problem)
            except ValueError as error:  # a damaged row: the study is measured again
                log.warning("the measures of %s cannot be read: %s", study, error)
        return rows
