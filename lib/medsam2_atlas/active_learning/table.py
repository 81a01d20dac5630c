"""Stores the measures of all studies in one SQLite file. Background measurements write it; requests read it."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path

from medsam2_atlas.active_learning.assess import Assessment
from medsam2_atlas.base.database import Database
from medsam2_atlas.base.json_text import stored_json

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measures (
    study TEXT PRIMARY KEY, image TEXT NOT NULL, versions TEXT NOT NULL, made TEXT NOT NULL,
    scores TEXT NOT NULL, why TEXT NOT NULL, problem TEXT NOT NULL
)
"""
_IMAGE = "image"
"""Key in `why` of a problem of the image. Earlier versions ignore it; their own rows do not say what a problem is about."""


@dataclass(frozen=True)
class Row:
    """The measures of a study.

    Attributes:
        study: name of the study.
        image: stamp of the measured image.
        versions: versions of atlas and models that were used.
        made: time of the measurement, ISO 8601.
        values: measures by strategy.
        why: a sentence on each measure, by strategy; `image` has the problem of an image that cannot be used.
        problem: why there are no measures; empty if there are.
    """

    study: str
    image: str
    versions: dict[str, str]
    made: str
    values: dict[str, float]
    why: dict[str, str]
    problem: str = ""

    @property
    def unusable(self) -> bool:
        """Whether `problem` is one of the image, not of a model or the machine."""
        return _IMAGE in self.why

    def current(self, versions: Mapping[str, str]) -> bool:
        """Returns whether the measures were made with these versions.

        Earlier releases recorded no `settings`, so their measures are current with any settings.
        """
        unnamed = {"settings"} - self.versions.keys()
        return self.versions == {key: value for key, value in versions.items() if key not in unnamed}


class ScoreTable:
    """The database of measures. Several processes and threads may use it. If it cannot be written, measures stay in memory."""

    def __init__(self, file: Path) -> None:
        """Opens the SQLite file, and creates it if it is missing."""
        self._file = file
        self._database = Database(file, _SCHEMA)
        self._kept: tuple[object, dict[tuple[str, ...], Row | None], Mapping[str, Row]] = (None, {}, {})

    @property
    def fallback(self) -> str:
        """The reason why measures are kept in memory; empty if they are in the file."""
        return self._database.fallback

    def put(
        self,
        study: str,
        image: str,
        versions: dict[str, str],
        assessment: Assessment | None,
        problem: str = "",
        *,
        unusable: bool = False,
    ) -> None:
        """Stores a study's measures.

        Args:
            study: name of the study.
            image: stamp of the measured image.
            versions: versions of atlas and models that were used.
            assessment: the measures; None if they cannot be computed.
            problem: why they cannot be computed.
            unusable: whether that is a problem of the image.
        """
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values, why = (assessment.values, assessment.why) if assessment else ({}, {_IMAGE: problem} if unusable else {})
        row = (study, image, json.dumps(versions, sort_keys=True), made, json.dumps(values), json.dumps(why), problem)
        self._database.write(lambda base: base.execute("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)", row))

    def drop(self, study: str) -> None:
        """Removes a study's measures."""

        def change(base: sqlite3.Connection) -> None:
            base.execute("PRAGMA secure_delete=ON")
            base.execute("DELETE FROM measures WHERE study = ?", (study,))

        self._database.write(change)

    def rows(self) -> Mapping[str, Row]:
        """Returns all measures by study; the same object until something changes, and the same rows if they do not change."""
        query = "SELECT study, image, versions, made, scores, why, problem FROM measures"
        self._database.check()
        state = self._database.state()  # before the query: a change after it makes the next caller ask again
        known, texts, rows = self._kept
        if known != state:
            found = self._database.read(lambda base: base.execute(query).fetchall())
            texts = {text: texts.get(text) or _parsed(*text) for text in found}
            rows = {row.study: row for row in texts.values() if row is not None}
            self._kept = (state, texts, rows)
        return rows


def _parsed(study: str, image: str, versions: str, made: str, scores: str, why: str, problem: str) -> Row | None:
    """Returns a row of the table; None if it is damaged, so that the study is measured again. Only finite measures count."""
    try:
        values = {str(name): float(value) for name, value in stored_json(scores).items()}
        reasons = {str(name): str(text) for name, text in stored_json(why).items()}
        known = dict(stored_json(versions))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        log.warning("the measures of %s cannot be read: %s", study, error)
        return None
    return Row(study, image, known, made, {name: value for name, value in values.items() if isfinite(value)}, reasons, problem)
