"""The index of a studies folder, in one SQLite file: quick to ask, filled from the files whenever it is lost.

Whoever asks while the index is lost waits until it has been filled again: nobody is told of an empty folder.
Lock order: the folder's lock, then the database's own.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from medsam2_atlas.database import Database
from medsam2_atlas.errors import StorageError
from medsam2_atlas.storage.lock import FolderLock
from medsam2_atlas.storage.rows import (
    SCHEMA,
    SCHEMA_VERSION,
    ImageRow,
    LabelRow,
    Writer,
    read_counts,
    read_image,
    read_images,
    read_label,
    read_labels,
    read_problems,
)

_Answer = TypeVar("_Answer")
_TRIES = 5


class Index:
    """The index. Safe for several processes and threads."""

    def __init__(self, file: Path) -> None:
        """
        Args:
            file: of the index; made if it does not exist. If it cannot be written, the index is kept in memory.
        """
        self.file = file
        self.fill: Callable[[], None] = lambda: None
        """Fills the index from the files of the folder; set by the owner."""
        self._database = Database(file, SCHEMA, version=SCHEMA_VERSION, durable=False)
        self._lock = FolderLock(file.parent)
        self._filled = -1  # generation of the database that was filled last
        self._filling = False  # by the thread that holds the lock

    @property
    def fallback(self) -> str:
        """Why the index is in memory; empty if it is in its file."""
        return self._database.fallback

    def ready(self) -> int:
        """Fills the index if it was lost or overtaken; the generation of the database.

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
                            self.file.parent.parent, f"cannot be read ({error.strerror}).", "Check rights and disk."
                        ) from error
                    finally:
                        self._filling = False
        return generation

    def again(self, change: Callable[[], _Answer]) -> _Answer:
        """Makes a change, again if the index was lost under it. A change that fails must leave nothing half made."""
        for _ in range(_TRIES - 1):
            generation = self._database.check()
            try:
                return change()
            except sqlite3.Error:
                if self._database.check() == generation:
                    raise
        return change()

    def overtaken(self) -> None:
        """Has the index filled again before the next answer."""
        self._database.distrust()

    def images(self) -> dict[str, ImageRow]:
        """All images by study."""
        return self._ask(read_images)

    def image(self, study: str) -> ImageRow | None:
        """One image."""
        return self._ask(lambda database: read_image(database, study))

    def labels(self) -> dict[tuple[str, str], LabelRow]:
        """All label maps by study and tag."""
        return self._ask(read_labels)

    def label(self, study: str, tag: str) -> LabelRow | None:
        """One label map."""
        return self._ask(lambda database: read_label(database, study, tag))

    def counts(self) -> tuple[int, dict[str, int]]:
        """How many images there are, and how many label maps without a problem under each tag."""
        return self._ask(read_counts)

    def problems(self) -> dict[tuple[str, str], str]:
        """What is wrong, by study and tag; an empty tag stands for the image."""
        return self._ask(read_problems)

    def unsettled(self) -> dict[tuple[str, str], tuple[str, bool]]:
        """What could not be settled, by study and tag: why, and whether the label map does not count therefore."""
        query = "SELECT study, tag, text, bad FROM problems"
        return self._ask(lambda base: {(row[0], row[1]): (row[2], bool(row[3])) for row in base.execute(query)})

    def label_stamps(self) -> dict[tuple[str, str], tuple[str, str]]:
        """File and stamp of each label map by study and tag."""
        query = "SELECT study, tag, file, stamp FROM labels"
        return self._ask(lambda base: {(row[0], row[1]): (row[2], row[3]) for row in base.execute(query)})

    def image_stamps(self) -> dict[str, tuple[str, str]]:
        """File and stamp of each image by study."""
        query = "SELECT study, file, stamp FROM images"
        return self._ask(lambda base: {row[0]: (row[1], row[2]) for row in base.execute(query)})

    def changed_images(self) -> list[str]:
        """Studies whose image has changed since its checksum was taken."""
        query = "SELECT study FROM images WHERE sha256 != '' AND hashed != stamp ORDER BY study"
        return self._ask(lambda base: [row[0] for row in base.execute(query)])

    def unknown_images(self) -> list[str]:
        """Studies with label maps whose image's checksum is not known."""
        query = "SELECT study FROM images WHERE hashed != stamp AND study IN (SELECT study FROM labels) ORDER BY study"
        return self._ask(lambda base: [row[0] for row in base.execute(query)])

    def unchecked(self) -> list[tuple[str, str]]:
        """Label maps that the full check was not made of."""
        query = "SELECT study, tag FROM labels WHERE checked IS NULL ORDER BY tag != 'final', study"
        return self._ask(lambda base: [(row[0], row[1]) for row in base.execute(query)])

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The only writer for as long as the block takes; all of its changes are kept, or none if it fails."""
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
                if self._database.generation == self._filled:  # nothing was mended
                    raise
                self.ready()
        return stack.enter_context(self._database.writing())

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
            self.file, f"cannot be read ({problem or 'it keeps changing'}).", "Check rights and free space of the folder."
        ) from problem
