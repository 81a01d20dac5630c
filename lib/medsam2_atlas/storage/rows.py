"""The rows of the index, and their tables in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.storage.doubts import doubled_problem, image_problem
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
CREATE TABLE IF NOT EXISTS alike (
    former TEXT NOT NULL, now TEXT NOT NULL, same INTEGER NOT NULL, PRIMARY KEY (former, now)
);
CREATE TABLE IF NOT EXISTS twins (study TEXT PRIMARY KEY, files TEXT NOT NULL, verdict TEXT);
CREATE TABLE IF NOT EXISTS doubled (study TEXT NOT NULL, tag TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (study, tag));
"""
SCHEMA_VERSION = 2
"""The version of the tables. A new table needs no new number, since an older release does not read it."""

_IMAGES = "SELECT study, file, info, stamp, sha256, hashed FROM images ORDER BY study"
_LABELS = """
SELECT l.study, l.tag, l.file, l.stamp, l.version, l.checked,
    CASE
        WHEN p.text IS NOT NULL THEN 'failed'
        WHEN l.image_sha256 != '' AND coalesce(i.sha256, '') NOT IN ('', l.image_sha256) AND NOT coalesce(a.same, 0)
            THEN CASE WHEN a.same IS NULL THEN 'comparing' ELSE 'replaced' END
        WHEN d.version IS NOT NULL THEN 'doubled'
        WHEN coalesce(l.checked, '') != '' THEN 'checked'
        ELSE ''
    END AS state,
    p.text, i.file, i.stamp
FROM labels l
LEFT JOIN problems p ON p.study = l.study AND p.tag = l.tag AND p.bad
LEFT JOIN images i ON i.study = l.study
LEFT JOIN alike a ON a.former = l.image_sha256 AND a.now = i.sha256
LEFT JOIN doubled d ON d.study = l.study AND d.tag = l.tag AND d.version = l.version
"""


@dataclass(frozen=True)
class ImageRow:
    """An image in the index.

    Attributes:
        study: the name of the study.
        file: the name of its file in the studies folder.
        info: the information that clients store with it.
        stamp: the stamp of the file, see `stamp_of`.
        sha256: the SHA-256 of the file at the time of the stamp `hashed`; empty if unknown.
        hashed: the stamp of the file when `sha256` was computed.
    """

    study: str
    file: str
    info: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    sha256: str = ""
    hashed: str = ""


@dataclass(frozen=True)
class LabelRow:
    """The current label map of a study under a tag, in the index.

    Attributes:
        study: the name of the study.
        tag: its tag.
        file: the path in the studies folder that MONAI Label expects, or the path of the version's file if that is unusable.
        stamp: the stamp of the file, see `stamp_of`.
        version: its version.
        checked: the problem that the full check found; empty if there is none, None before the check.
        problem: see `entries.Label`; set when the row is read.
        unsure: see `entries.Label`; set when the row is read.
    """

    study: str
    tag: str
    file: str
    stamp: str
    version: Version
    checked: str | None = None
    problem: str = ""
    unsure: bool = False


def stamp_of(file: Path) -> str:
    """Returns a text that changes whenever the file changes; empty if the file does not exist.

    Raises:
        OSError: the state of the file cannot be read.
    """
    try:
        return stamp(file.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ""


class Writer:
    """A write transaction of the index.

    Args:
        database: a connection with an open write transaction.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Rolls back only the block's changes of the index if the block fails."""
        self._database.execute("SAVEPOINT block")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has undone the whole transaction
                self._database.execute("ROLLBACK TO block")
                self._database.execute("RELEASE block")
            raise
        self._database.execute("RELEASE block")

    def images(self) -> dict[str, ImageRow]:
        """Returns all images by study."""
        return read_images(self._database)

    def image(self, study: str) -> ImageRow | None:
        """Returns the image of a study; None if there is none."""
        return read_image(self._database, study)

    def tags(self, study: str) -> list[str]:
        """Returns the tags under which a study has a label map."""
        return [row[0] for row in self._database.execute("SELECT tag FROM labels WHERE study = ? ORDER BY tag", (study,))]

    def label(self, study: str, tag: str) -> LabelRow | None:
        """Returns the label map of a study under a tag; None if there is none."""
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
        version = json.dumps(row.version.as_json())
        values = (row.study, row.tag, row.file, row.stamp, version, row.version.image_sha256, row.checked)
        self._database.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        if row.version.doubled:
            self._database.execute("INSERT OR REPLACE INTO doubled VALUES (?, ?, ?)", (row.study, row.tag, version))

    def put_alike(self, previous: str, current: str, same: bool) -> None:
        """Records whether two files, given by their SHA-256, contain the same image."""
        self._database.execute("INSERT OR REPLACE INTO alike VALUES (?, ?, ?)", (previous, current, same))

    def twins(self) -> dict[str, tuple[str, str | None]]:
        """Returns studies with several image files; see `read_twins`."""
        return read_twins(self._database)

    def put_twins(self, study: str, files: str, verdict: str | None) -> None:
        """Records the image files of a study that has several.

        Args:
            study: the name of the study.
            files: the files with their stamps, as JSON.
            verdict: the result of their comparison, see `read_twins`.
        """
        self._database.execute("INSERT OR REPLACE INTO twins VALUES (?, ?, ?)", (study, files, verdict))

    def drop_twins(self, study: str) -> None:
        """Removes a study from the studies with several image files."""
        self._database.execute("DELETE FROM twins WHERE study = ?", (study,))

    def put_problem(self, study: str, tag: str, text: str, *, bad: bool = True) -> None:
        """Records a problem.

        Args:
            study: the name of the study.
            tag: the tag of the label map; empty for the image.
            text: the problem.
            bad: whether it makes the label map or image unusable.
        """
        self._database.execute("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)", (study, tag, text, bad))

    def check_again(self, study: str) -> None:
        """Schedules another full check for those label maps of a study that failed it; called if its image has changed."""
        self._database.execute("UPDATE labels SET checked = NULL WHERE study = ? AND checked != ''", (study,))

    def drop_problem(self, study: str, tag: str) -> None:
        """Removes the problem of a label map, or of an image (empty tag)."""
        self._database.execute("DELETE FROM problems WHERE study = ? AND tag = ?", (study, tag))

    def drop_image_problems(self) -> None:
        """Removes all problems of images."""
        self._database.execute("DELETE FROM problems WHERE tag = ''")

    def drop_image(self, study: str) -> None:
        """Removes an image and its label maps."""
        for table in ("images", "labels", "problems", "doubled"):
            self._database.execute(f"DELETE FROM {table} WHERE study = ?", (study,))

    def drop_label(self, study: str, tag: str) -> None:
        """Removes a label map."""
        self._database.execute("DELETE FROM labels WHERE study = ? AND tag = ?", (study, tag))


def read_images(database: sqlite3.Connection) -> dict[str, ImageRow]:
    """Returns all images by study."""
    return {row[0]: _image(row) for row in database.execute(_IMAGES).fetchall()}


def read_image(database: sqlite3.Connection, study: str) -> ImageRow | None:
    """Returns the image of a study; None if there is none."""
    if not encodable(study):  # SQLite cannot store such a text
        return None
    query = "SELECT study, file, info, stamp, sha256, hashed FROM images WHERE study = ?"
    row = database.execute(query, (study,)).fetchone()
    return _image(row) if row else None


def read_twins(database: sqlite3.Connection) -> dict[str, tuple[str, str | None]]:
    """Returns the studies with several image files.

    Returns:
        By study, the files with their stamps as JSON, and the result of their comparison: None before the comparison, empty if
        all contain the same image, else a problem.
    """
    return {row[0]: (row[1], row[2]) for row in database.execute("SELECT study, files, verdict FROM twins")}


class ParsedRows:
    """Reads all images or label maps, and parses only those whose row has changed since the last time."""

    def __init__(self) -> None:
        self._labels: dict[tuple[Any, ...], LabelRow] = {}
        self._images: dict[tuple[Any, ...], ImageRow] = {}

    def labels(self, database: sqlite3.Connection) -> dict[tuple[str, str], LabelRow]:
        """Returns all label maps by study and tag."""
        known = self._labels
        rows = {row: known.get(row) or _label(row) for row in database.execute(_LABELS).fetchall()}
        self._labels = rows  # in one step, because several threads may read
        return {(row.study, row.tag): row for row in rows.values()}

    def images(self, database: sqlite3.Connection) -> dict[str, ImageRow]:
        """Returns all images by study."""
        known = self._images
        rows = {row: known.get(row) or _image(row) for row in database.execute(_IMAGES).fetchall()}
        self._images = rows
        return {row.study: row for row in rows.values()}


def read_label(database: sqlite3.Connection, study: str, tag: str) -> LabelRow | None:
    """Returns the label map of a study under a tag; None if there is none."""
    if not (encodable(study) and encodable(tag)):
        return None
    query = f"{_LABELS} WHERE l.study = :study AND l.tag = :tag"
    row = database.execute(query, {"study": study, "tag": tag}).fetchone()
    return _label(row) if row else None


def read_counts(database: sqlite3.Connection) -> tuple[int, dict[str, int]]:
    """Returns the number of images, and the number of label maps without a problem under each tag."""
    images = database.execute("SELECT count(*) FROM images").fetchone()[0]
    query = f"SELECT tag, sum(state = '') FROM ({_LABELS}) GROUP BY tag ORDER BY tag"
    return int(images), {tag: int(count) for tag, count in database.execute(query) if count}


def read_problems(database: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Returns problems by study and tag; an empty tag stands for the image."""
    found = {(study, tag): text for study, tag, text in database.execute("SELECT study, tag, text FROM problems")}
    rows = [_label(row) for row in database.execute(f"SELECT * FROM ({_LABELS}) WHERE state != ''")]
    return {(row.study, row.tag): row.problem for row in rows} | found


def _image(row: tuple[str, str, str, str, str, str]) -> ImageRow:
    study, file, info, stamp, sha256, hashed = row
    return ImageRow(study, file, json.loads(info), stamp, sha256, hashed)


def _label(row: tuple[str, str, str, str, str, str | None, str, str | None, str | None, str | None]) -> LabelRow:
    study, tag, file, stamp, text, checked, state, failure, image, image_stamp = row
    version = Version.from_json(text)
    if state in ("replaced", "comparing"):
        problem = image_problem(version, image or "", image_stamp or "", state == "replaced")
    elif state == "doubled":
        problem = doubled_problem(version)
    else:
        problem = (failure or "") if state == "failed" else (checked or "") if state == "checked" else ""
    return LabelRow(study, tag, file, stamp, version, checked, problem, state in ("replaced", "comparing", "doubled"))
