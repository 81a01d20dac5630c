"""What lies in a studies folder, in one SQLite file: quick to ask, rebuilt from the files whenever it is lost."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.database import prepare, reading, writing
from medsam2_atlas.errors import StorageError
from medsam2_atlas.storage.folder import encodable
from medsam2_atlas.storage.lineage import Version

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (study TEXT PRIMARY KEY, file TEXT NOT NULL, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (
    study TEXT NOT NULL, tag TEXT NOT NULL, file TEXT NOT NULL, stamp TEXT NOT NULL, version TEXT NOT NULL,
    PRIMARY KEY (study, tag)
);
"""


@dataclass(frozen=True)
class ImageRow:
    """An image. file: its name in the studies folder."""

    study: str
    file: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRow:
    """The label map that a study has under a tag now. file: its name in the tag's folder. stamp: see `stamp_of`."""

    study: str
    tag: str
    file: str
    stamp: str
    version: Version


def stamp_of(file: Path) -> str:
    """Tells a file from what stood there before: size and time of change; empty where there is none."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return ""
    return f"{state.st_size}-{state.st_mtime_ns}"


class Index:
    """The SQLite file. Its write transaction is also the lock under which label files are changed.

    Safe for several processes and threads: each use opens the file anew; in WAL mode readers wait for nobody.
    """

    def __init__(self, file: Path) -> None:
        """
        Raises:
            StorageError: the file cannot be made.
        """
        self.file = file
        self.fresh = not file.exists()
        try:
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                    raise
                self._set_aside(error)
                self._prepare()
            # Held open: the last one to close would remove what the next one then cannot make again on a full disk.
            self._held = sqlite3.connect(file, check_same_thread=False)
            self._held.execute("SELECT count(*) FROM images").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(file, f"cannot be opened ({error}).", "Check rights and free space of the folder.") from error

    def images(self) -> dict[str, ImageRow]:
        """All images by study."""
        with self._reading() as database:
            return _images(database)

    def image(self, study: str) -> ImageRow | None:
        """One image."""
        if not encodable(study):
            return None
        with self._reading() as database:
            row = database.execute("SELECT study, file, info FROM images WHERE study = ?", (study,)).fetchone()
        return ImageRow(row[0], row[1], json.loads(row[2])) if row else None

    def labels(self) -> dict[tuple[str, str], LabelRow]:
        """All label maps by study and tag."""
        with self._reading() as database:
            return _labels(database)

    def label(self, study: str, tag: str) -> LabelRow | None:
        """One label map."""
        with self._reading() as database:
            return _label(database, study, tag)

    def counts(self) -> tuple[int, dict[str, int]]:
        """How many images there are, and how many label maps under each tag."""
        with self._reading() as database:
            images = database.execute("SELECT count(*) FROM images").fetchone()[0]
            tags = dict(database.execute("SELECT tag, count(*) FROM labels GROUP BY tag ORDER BY tag").fetchall())
        return int(images), tags

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The only writer for as long as the block takes; all of its changes are kept, or none where it fails."""
        with writing(self.file) as database:
            yield Writer(database)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with reading(self.file) as database:
                yield database
        except sqlite3.Error as error:
            raise StorageError(self.file, f"cannot be read ({error}).", "Check rights and free space of the folder.") from error

    def _prepare(self) -> None:
        prepare(self.file, _SCHEMA)
        with reading(self.file) as database:
            if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check finds it damaged")

    def _set_aside(self, error: Exception) -> None:
        log.warning("%s is damaged (%s); it is set aside and made again from the files", self.file, error)
        for suffix in ("", "-wal", "-shm"):
            part = self.file.with_name(self.file.name + suffix)
            if part.exists():
                part.rename(part.with_name(f"{part.name}.damaged-{time.time_ns()}"))
        self.fresh = True


class Writer:
    """A write transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def images(self) -> dict[str, ImageRow]:
        """All images by study."""
        return _images(self._database)

    def labels(self) -> dict[tuple[str, str], LabelRow]:
        """All label maps by study and tag."""
        return _labels(self._database)

    def label(self, study: str, tag: str) -> LabelRow | None:
        """One label map."""
        return _label(self._database, study, tag)

    def put_image(self, row: ImageRow) -> None:
        """Adds or replaces an image."""
        self._database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (row.study, row.file, json.dumps(row.info)))

    def put_label(self, row: LabelRow) -> None:
        """Adds or replaces a label map."""
        values = (row.study, row.tag, row.file, row.stamp, json.dumps(asdict(row.version)))
        self._database.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?)", values)

    def drop_image(self, study: str) -> None:
        """Forgets an image and its label maps."""
        self._database.execute("DELETE FROM images WHERE study = ?", (study,))
        self._database.execute("DELETE FROM labels WHERE study = ?", (study,))

    def drop_label(self, study: str, tag: str) -> None:
        """Forgets a label map."""
        self._database.execute("DELETE FROM labels WHERE study = ? AND tag = ?", (study, tag))


def _images(database: sqlite3.Connection) -> dict[str, ImageRow]:
    rows = database.execute("SELECT study, file, info FROM images ORDER BY study").fetchall()
    return {study: ImageRow(study, file, json.loads(info)) for study, file, info in rows}


def _labels(database: sqlite3.Connection) -> dict[tuple[str, str], LabelRow]:
    rows = database.execute("SELECT study, tag, file, stamp, version FROM labels").fetchall()
    return {(row[0], row[1]): _row(row) for row in rows}


def _label(database: sqlite3.Connection, study: str, tag: str) -> LabelRow | None:
    if not (encodable(study) and encodable(tag)):  # SQLite takes no such text
        return None
    query = "SELECT study, tag, file, stamp, version FROM labels WHERE study = ? AND tag = ?"
    row = database.execute(query, (study, tag)).fetchone()
    return _row(row) if row else None


def _row(row: tuple[str, str, str, str, str]) -> LabelRow:
    study, tag, file, stamp, version = row
    return LabelRow(study, tag, file, stamp, Version(**json.loads(version)))
