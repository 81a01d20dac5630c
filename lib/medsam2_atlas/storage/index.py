"""The index of a studies folder, in one SQLite file. It makes queries fast; if it is lost, it is filled again from the files.

A query of a lost index waits until the index has been filled again, so that the folder never seems empty.
Lock order: the folder's lock, then the lock of the database.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from medsam2_atlas.base.database import Database
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.storage.lock import FolderLock
from medsam2_atlas.storage.rows import (
    SCHEMA,
    SCHEMA_VERSION,
    ImageRow,
    LabelRow,
    ParsedRows,
    Writer,
    read_counts,
    read_image,
    read_label,
    read_problems,
    read_twins,
)

_Answer = TypeVar("_Answer")
_TRIES = 5


class Index:
    """The index of a studies folder. Safe for several processes and threads.

    Args:
        file: the file of the index; created if it does not exist. If it cannot be written, the index is kept in memory.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.fill: Callable[[], None] = lambda: None
        """Fills the index from the files of the folder. The owner of the index sets it."""
        self._database = Database(file, SCHEMA, version=SCHEMA_VERSION, durable=False)
        self._lock = FolderLock(file.parent)
        self._filled = -1  # the generation of the database that was filled last
        self._filling = False  # whether the thread that holds the lock is filling it
        self._rows = ParsedRows()
        self._kept: dict[str, tuple[object, Any]] = {}  # answers that stay valid until something is written

    @property
    def fallback(self) -> str:
        """The reason why the index is in memory; empty if it is in its file."""
        return self._database.fallback

    def ready(self) -> int:
        """Fills the index if it is lost or out of date; returns the generation of the database.

        Raises:
            StorageError: the folder cannot be read.
        """
        generation = self._database.check()
        if generation != self._filled:
            with self._lock.held():
                for _ in range(_TRIES):
                    generation = self._database.check()
                    if self._filling or generation == self._filled:
                        break
                    self._filling = True
                    try:
                        self.fill()
                        self._filled = generation
                    except sqlite3.Error as error:
                        if self._database.generation == generation and not self._database.failed(error, generation):
                            raise
                    except OSError as error:
                        raise StorageError(
                            self.file.parent.parent,
                            f"cannot be read ({error.strerror}).",
                            "Check its permissions and the disk.",
                        ) from error
                    finally:
                        self._filling = False
        return generation

    def again(self, change: Callable[[], _Answer]) -> _Answer:
        """Makes a change; repeats it if the index was lost meanwhile. A failed change must leave nothing incomplete."""
        for _ in range(_TRIES - 1):
            generation = self._database.check()
            try:
                return change()
            except sqlite3.Error:
                if self._database.check() == generation:
                    raise
        return change()

    def mark_outdated(self) -> None:
        """Marks the index as out of date. It is filled again before the next answer."""
        self._database.mark_outdated()

    def images(self) -> Mapping[str, ImageRow]:
        """Returns all images by study; the same object until the index changes."""
        return self._keep("images", self._rows.images)

    def image(self, study: str) -> ImageRow | None:
        """Returns the image of a study; None if there is none."""
        return self._ask(lambda database: read_image(database, study))

    def labels(self) -> Mapping[tuple[str, str], LabelRow]:
        """Returns all label maps by study and tag; the same object until the index changes. Unchanged rows stay the same."""
        return self._keep("labels", self._rows.labels)

    def label(self, study: str, tag: str) -> LabelRow | None:
        """Returns the label map of a study under a tag; None if there is none."""
        return self._ask(lambda database: read_label(database, study, tag))

    def counts(self) -> tuple[int, dict[str, int]]:
        """Returns the number of images, and the number of label maps without a problem under each tag."""
        return self._ask(read_counts)

    def problems(self) -> Mapping[tuple[str, str], str]:
        """Returns problems by study and tag; an empty tag stands for the image. The same object until the index changes."""
        return self._keep("problems", read_problems)

    def unsettled(self) -> dict[tuple[str, str], tuple[str, bool]]:
        """Returns unsettled images and label maps by study and tag: the reason, and whether it makes them unusable."""
        query = "SELECT study, tag, text, bad FROM problems"
        return self._ask(lambda base: {(row[0], row[1]): (row[2], bool(row[3])) for row in base.execute(query)})

    def label_stamps(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Returns the file and stamp of each label map by study and tag."""
        query = "SELECT study, tag, file, stamp FROM labels"
        return self._ask(lambda base: {(row[0], row[1]): (row[2], row[3]) for row in base.execute(query)})

    def image_stamps(self) -> dict[str, tuple[str, str]]:
        """Returns the file and stamp of each image by study."""
        query = "SELECT study, file, stamp FROM images"
        return self._ask(lambda base: {row[0]: (row[1], row[2]) for row in base.execute(query)})

    def changed_images(self) -> list[str]:
        """Returns studies without a current checksum of the image, if it had one before or if label maps record one."""
        query = (
            "SELECT study FROM images WHERE hashed != stamp AND (sha256 != '' "
            "OR study IN (SELECT study FROM labels WHERE image_sha256 != '')) ORDER BY sha256 = '', study"
        )
        return self._ask(lambda base: [row[0] for row in base.execute(query)])

    def unknown_images(self) -> list[str]:
        """Returns studies with label maps for whose image no current checksum is known."""
        query = "SELECT study FROM images WHERE hashed != stamp AND study IN (SELECT study FROM labels) ORDER BY study"
        return self._ask(lambda base: [row[0] for row in base.execute(query)])

    def undecided_images(self) -> list[tuple[str, str]]:
        """Returns pairs of images to compare: the study of the current image, and the SHA-256 of the labelled image."""
        query = (
            "SELECT DISTINCT l.study, l.image_sha256 FROM labels l JOIN images i ON i.study = l.study "
            "WHERE l.image_sha256 != '' AND i.sha256 NOT IN ('', l.image_sha256) "
            "AND NOT EXISTS (SELECT 1 FROM alike a WHERE a.former = l.image_sha256 AND a.now = i.sha256) ORDER BY l.study"
        )
        return self._ask(lambda base: [(row[0], row[1]) for row in base.execute(query)])

    def drawn_on(self) -> dict[str, str]:
        """Returns studies with a label map that was drawn on the current image, with the SHA-256 of that image."""
        query = (
            "SELECT DISTINCT i.study, i.sha256 FROM images i JOIN labels l ON l.study = i.study "
            "WHERE i.sha256 != '' AND l.image_sha256 = i.sha256 ORDER BY i.study"
        )
        return self._ask(lambda base: {row[0]: row[1] for row in base.execute(query)})

    def twins(self) -> dict[str, tuple[str, str | None]]:
        """Returns studies with several image files; see `read_twins`."""
        return self._ask(read_twins)

    def doubled(self) -> list[tuple[str, str]]:
        """Returns study and tag of label maps that were found in several files, of which none has been chosen yet."""
        query = "SELECT study, tag FROM doubled d WHERE EXISTS (SELECT 1 FROM labels l WHERE l.version = d.version)"
        return self._ask(lambda base: [(row[0], row[1]) for row in base.execute(query)])

    def unchecked(self) -> list[tuple[str, str]]:
        """Returns study and tag of label maps without a full check."""
        query = "SELECT study, tag FROM labels WHERE checked IS NULL ORDER BY tag != 'final', study"
        return self._ask(lambda base: [(row[0], row[1]) for row in base.execute(query)])

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Yields the writer of a transaction, which is committed after the block, or rolled back if the block raises."""
        with self._lock.held():
            if not self._filling:
                self._database.retry()
                self.ready()
            with contextlib.ExitStack() as stack:
                yield Writer(self._begun(stack))

    def _begun(self, stack: contextlib.ExitStack) -> sqlite3.Connection:
        for _ in range(_TRIES):
            try:
                return stack.enter_context(self._database.writing())
            except sqlite3.Error:
                if self._database.generation == self._filled:  # the database was not reopened
                    raise
                self.ready()
        return stack.enter_context(self._database.writing())

    def _keep(self, name: str, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Returns the answer to a question; asks again only if the index may have changed since the last time."""
        self.ready()
        state = self._database.state()  # before the answer: a change after it makes the next caller ask again
        known, answer = self._kept.get(name, (None, None))
        if known != state:
            answer = self._ask(question)
            self._kept[name] = (state, answer)
        return answer  # type: ignore[no-any-return]

    def _ask(self, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        problem: Exception | None = None
        for _ in range(_TRIES):
            generation = self.ready()
            try:
                with self._database.reading() as database:
                    answer = question(database)
            except sqlite3.Error as error:
                problem = error
                self._database.failed(error, generation)
                continue
            if self._database.check() == generation:
                return answer
        raise StorageError(
            self.file, f"cannot be read ({problem or 'it keeps changing'}).", "Check permissions and free space of the folder."
        ) from problem
