"""Rows of the index, and their tables in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.storage.folder import encodable, stamp
from medsam2_atlas.storage.lineage import Version

SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    study TEXT PRIMARY KEY, file TEXT NOT NULL, info TEXT NOT NULL, stamp TEXT NOT NULL,
    sha256 TEXT NOT NULL, hashed TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS labels (
    study TEXT NOT NULL, tag TEXT NOT NULL, file TEXT NOT NULL, stamp TEXT NOT NULL, version TEXT NOT NULL,
    image_sha256 TEXT NOT NULL, checked TEXT, PRIMARY KEY (study, tag)
);
CREATE TABLE IF NOT EXISTS problems (
    study TEXT NOT NULL, tag TEXT NOT NULL, text TEXT NOT NULL, bad INTEGER NOT NULL, PRIMARY KEY (study, tag)
);
"""
SCHEMA_VERSION = 2

_SWAPPED = "was drawn on another image than the one that is here now. Bring that image back, or save the label map again."
_LABELS = """
SELECT l.study, l.tag, l.file, l.stamp, l.version, l.checked,
    CASE
        WHEN p.text IS NOT NULL THEN p.text
        WHEN coalesce(l.checked, '') != '' THEN l.checked
        WHEN l.image_sha256 != '' AND coalesce(i.sha256, '') != '' AND l.image_sha256 != i.sha256 THEN :swapped
        ELSE ''
    END AS problem
FROM labels l
LEFT JOIN problems p ON p.study = l.study AND p.tag = l.tag AND p.bad
LEFT JOIN images i ON i.study = l.study
"""


@dataclass(frozen=True)
class ImageRow:
    """An image.

    Attributes:
        study: its name.
        file: name in the studies folder.
        info: information that clients keep with it.
        stamp: of the file, see `stamp_of`.
        sha256: of the file when its stamp was `hashed`; empty if unknown.
        hashed: see `sha256`.
    """

    study: str
    file: str
    info: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    sha256: str = ""
    hashed: str = ""


@dataclass(frozen=True)
class LabelRow:
    """The current label map of a study under a tag.

    Attributes:
        study: name of the study.
        tag: its tag.
        file: path in the studies folder: the one that MONAI Label expects, or the version's own file if that one is unusable.
        stamp: of the file, see `stamp_of`.
        version: its version.
        checked: problem that the full check found; empty for none, None before the check.
        problem: why the label map does not count; filled when the row is read.
    """

    study: str
    tag: str
    file: str
    stamp: str
    version: Version
    checked: str | None = None
    problem: str = ""


def stamp_of(file: Path) -> str:
    """Returns a text that changes with a file; empty if there is no file.

    Raises:
        OSError: its state cannot be read.
    """
    try:
        return stamp(file.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ""


class Writer:
    """A write transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Rolls back only the block's changes to the index if the block fails."""
        self._database.execute("SAVEPOINT apart")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has undone the whole transaction
                self._database.execute("ROLLBACK TO apart")
                self._database.execute("RELEASE apart")
            raise
        self._database.execute("RELEASE apart")

    def images(self) -> dict[str, ImageRow]:
        """Returns all images by study."""
        return read_images(self._database)

    def image(self, study: str) -> ImageRow | None:
        """Returns one image."""
        return read_image(self._database, study)

    def tags(self, study: str) -> list[str]:
        """Returns tags that a study has labels under."""
        return [row[0] for row in self._database.execute("SELECT tag FROM labels WHERE study = ? ORDER BY tag", (study,))]

    def label(self, study: str, tag: str) -> LabelRow | None:
        """Returns one label map."""
        return read_label(self._database, study, tag)

    def failed(self, study: str, tag: str) -> bool:
        """Returns whether a label map could not be settled."""
        query = "SELECT 1 FROM problems WHERE study = ? AND tag = ? AND bad"
        return self._database.execute(query, (study, tag)).fetchone() is not None

    def put_image(self, row: ImageRow) -> None:
        """Adds or replaces an image."""
        values = (row.study, row.file, json.dumps(row.info), row.stamp, row.sha256, row.hashed)
        self._database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", values)

    def put_label(self, row: LabelRow) -> None:
        """Adds or replaces a label map."""
        version = json.dumps(asdict(row.version))
        values = (row.study, row.tag, row.file, row.stamp, version, row.version.image_sha256, row.checked)
        self._database.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def put_problem(self, study: str, tag: str, text: str, *, bad: bool = True) -> None:
        """Records a problem of a label map, or of an image (empty tag). bad: whether the label map does not count."""
        self._database.execute("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)", (study, tag, text, bad))

    def check_again(self, study: str) -> None:
        """Schedules a new check of a study's label maps that failed the full check, after its image has changed."""
        self._database.execute("UPDATE labels SET checked = NULL WHERE study = ? AND checked != ''", (study,))

    def drop_problem(self, study: str, tag: str) -> None:
        """Removes a problem."""
        self._database.execute("DELETE FROM problems WHERE study = ? AND tag = ?", (study, tag))

    def drop_image_problems(self) -> None:
        """Removes all problems of images."""
        self._database.execute("DELETE FROM problems WHERE tag = ''")

    def drop_image(self, study: str) -> None:
        """Removes an image and its label maps."""
        for table in ("images", "labels", "problems"):
            self._database.execute(f"DELETE FROM {table} WHERE study = ?", (study,))

    def drop_label(self, study: str, tag: str) -> None:
        """Removes a label map."""
        self._database.execute("DELETE FROM labels WHERE study = ? AND tag = ?", (study, tag))


def read_images(database: sqlite3.Connection) -> dict[str, ImageRow]:
    """Returns all images by study."""
    rows = database.execute("SELECT study, file, info, stamp, sha256, hashed FROM images ORDER BY study").fetchall()
    return {row[0]: _image(row) for row in rows}


def read_image(database: sqlite3.Connection, study: str) -> ImageRow | None:
    """Returns one image."""
    if not encodable(study):  # SQLite cannot store such a text
        return None
    query = "SELECT study, file, info, stamp, sha256, hashed FROM images WHERE study = ?"
    row = database.execute(query, (study,)).fetchone()
    return _image(row) if row else None


def read_labels(database: sqlite3.Connection) -> dict[tuple[str, str], LabelRow]:
    """Returns all label maps by study and tag."""
    return {(row[0], row[1]): _label(row) for row in database.execute(_LABELS, {"swapped": _SWAPPED}).fetchall()}


def read_label(database: sqlite3.Connection, study: str, tag: str) -> LabelRow | None:
    """Returns one label map."""
    if not (encodable(study) and encodable(tag)):
        return None
    query = f"{_LABELS} WHERE l.study = :study AND l.tag = :tag"
    row = database.execute(query, {"swapped": _SWAPPED, "study": study, "tag": tag}).fetchone()
    return _label(row) if row else None


def read_counts(database: sqlite3.Connection) -> tuple[int, dict[str, int]]:
    """Returns the number of images, and the number of label maps without a problem under each tag."""
    images = database.execute("SELECT count(*) FROM images").fetchone()[0]
    query = f"SELECT tag, sum(problem = '') FROM ({_LABELS}) GROUP BY tag ORDER BY tag"
    return int(images), {tag: int(count) for tag, count in database.execute(query, {"swapped": _SWAPPED}) if count}


def read_problems(database: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Returns problems by study and tag; an empty tag stands for the image."""
    found = {(study, tag): text for study, tag, text in database.execute("SELECT study, tag, text FROM problems")}
    query = f"SELECT study, tag, problem FROM ({_LABELS}) WHERE problem != ''"
    rows = database.execute(query, {"swapped": _SWAPPED})
    return {(study, tag): text for study, tag, text in rows} | found


def _image(row: tuple[str, str, str, str, str, str]) -> ImageRow:
    study, file, info, stamp, sha256, hashed = row
    return ImageRow(study, file, json.loads(info), stamp, sha256, hashed)


def _label(row: tuple[str, str, str, str, str, str | None, str]) -> LabelRow:
    study, tag, file, stamp, version, checked, problem = row
    return LabelRow(study, tag, file, stamp, Version.from_json(version), checked, problem)
