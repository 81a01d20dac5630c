"""SQLite files that several processes and threads share, and that may be lost or become unwritable at any time.

A `Database` contains only data that can be rebuilt. If its file is removed, replaced or damaged while in use, an empty file
replaces it. On a full or read-only disk, a copy in memory replaces it. Both increase `generation`, so that the user of the
database fills it again.

Locks: `_guard` protects the choice of file or memory, and each use of the memory. Nothing waits for a writer while holding it.
`_watching`, which may be taken after it, protects the connection that detects changes.
Files use SQLite's rollback journal, not WAL: WAL shares memory through a file beside the database, and a process crashes if
that file is truncated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

_WAIT_SECONDS = 60.0
_SHORT_SECONDS = 0.2
_TRIES = 4
_RETRY_SECONDS = 10.0
_REFUSED = ("readonly", "full", "unable to open", "disk i/o", "permission", "locking protocol")
_BROKEN = ("malformed", "not a database")
_SPOILED = (*_BROKEN, "no such table", "no such column", "has no column", "damaged", "unsupported file")


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Yields a connection to an existing file, for reading."""
    with closing(_connect(file)) as database:
        yield database


@contextmanager
def writing(file: Path, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
    """Yields a connection inside a write transaction, which is committed after the block, or rolled back if it raises.

    Args:
        file: an existing database file.
        durable: whether the change must survive a power cut; False makes writing faster.
    """
    with closing(_connect(file)) as database:
        if not durable:
            database.execute("PRAGMA synchronous=OFF")
        with _transaction(database):
            yield database


_Answer = TypeVar("_Answer")


class Database:
    """A database file whose tables can be filled again, or the same tables in memory. Safe for several processes and threads.

    Attributes:
        fallback: the reason why the tables are in memory; empty while the file is used.
        generation: number of times that the tables were opened. Their content may be lost each time.
    """

    def __init__(self, file: Path, schema: str, *, version: int = 0, durable: bool = True) -> None:
        """Opens the database, or creates it if it does not exist.

        Args:
            file: the database file; it is created together with its folder.
            schema: SQL that creates the tables if they do not exist.
            version: version of the schema; a file of another version is replaced.
            durable: whether the last change must survive a power cut; False makes writing faster.
        """
        self.file, self.fallback, self.generation = file, "", 0
        self._schema, self._version, self._durable = schema, version, durable
        self._guard = threading.RLock()
        self._memory: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._held: sqlite3.Connection | None = None  # an open file's inode number cannot be reused for another file
        self._watching = threading.Lock()  # guards each use of `_held`, whose data version tells whether others have written
        self._tried = 0.0
        self._open()

    def check(self) -> int:
        """Reopens the file if it was removed or replaced; returns the generation."""
        if self._memory is None and _identity(self.file) != self._identity:
            with self._guard:
                if self._memory is None and _identity(self.file) != self._identity:
                    log.warning("%s was removed or replaced; it is reopened", self.file)
                    self._open()
        return self.generation

    def retry(self) -> None:
        """Tries the file again if the tables are in memory, at most once every ten seconds."""
        if self._memory is not None and time.monotonic() - self._tried > _RETRY_SECONDS:
            with self._guard:
                if self._memory is not None and time.monotonic() - self._tried > _RETRY_SECONDS:
                    self._open(only_file=True)

    def failed(self, error: sqlite3.Error, since: int) -> bool:
        """Handles an error: reopens the tables if the file is damaged or cannot be written.

        Args:
            error: the error that SQLite raised.
            since: the generation in which it occurred.

        Returns:
            Whether the tables were reopened, so that a retry makes sense.
        """
        text = str(error).lower()
        with self._guard:
            if self.generation != since:
                return True
            if self._memory is not None:
                return False
            moved = _identity(self.file) != self._identity
            if not moved and any(words in text for words in _BROKEN):
                self._set_aside(error)
            elif not moved and not any(words in text for words in (*_SPOILED, *_REFUSED)):
                return False
            self._open()
        return True

    def state(self) -> object:
        """Returns a value that is equal to an earlier one only if nothing was written in between. Never waits for a writer."""
        generation, memory = self.generation, self._memory
        try:
            if memory is not None:
                with self._guard:
                    return object() if memory.in_transaction else (generation, memory.total_changes)
            with self._watching:
                if self._held is not None:
                    return generation, self._identity, self._held.execute("PRAGMA data_version").fetchall()[0][0]
        except sqlite3.Error as error:  # somebody is writing
            log.debug("the state of %s is unknown: %s", self.file, error)
        return object()

    def mark_outdated(self) -> None:
        """Marks the content as out of date: increases the generation, so that users fill the tables again."""
        with self._guard:
            self.generation += 1

    def read(self, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Runs a query and returns its result; repeats it if the file was lost meanwhile.

        Raises:
            sqlite3.Error: the query failed.
        """
        return self._again(self.reading, question)

    def write(self, change: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Makes a change in one transaction and returns its result; repeats it if the file was lost meanwhile.

        Raises:
            sqlite3.Error: the change failed.
        """
        self.retry()
        return self._again(self.writing, change)

    def _again(
        self,
        opened: Callable[[], contextlib.AbstractContextManager[sqlite3.Connection]],
        use: Callable[[sqlite3.Connection], _Answer],
    ) -> _Answer:
        for _ in range(_TRIES - 1):
            generation = self.check()
            try:
                with opened() as database:
                    return use(database)
            except sqlite3.Error as error:
                if self.generation == generation and not self.failed(error, generation):
                    raise
        with opened() as database:
            return use(database)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection for reading."""
        memory = self._memory
        if memory is None:
            with reading(self.file) as database:
                yield database
        else:
            with self._guard:
                yield memory

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection inside a write transaction, which is committed after the block, or rolled back if it raises."""
        memory, generation = self._memory, self.generation
        try:
            if memory is None:
                with writing(self.file, durable=self._durable) as database:
                    yield database
            else:
                with self._guard, _transaction(memory):
                    yield memory
        except sqlite3.Error as error:
            self.failed(error, generation)
            raise

    def _open(self, *, only_file: bool = False) -> None:
        self._tried = time.monotonic()
        for attempt in range(_TRIES):
            try:
                if not self.file.exists():
                    self._make()
                self._accept()
            except FileExistsError:
                continue  # another process created it
            except (OSError, sqlite3.Error) as error:
                if self.file.exists() and attempt + 1 < _TRIES and any(words in str(error).lower() for words in _SPOILED):
                    self._set_aside(error)
                    continue
                if not only_file:
                    self._to_memory(getattr(error, "strerror", None) or str(error))
                return
            if self.fallback:
                log.warning("%s can be used again", self.file)
            self._memory, self.fallback = None, ""
            self.generation += 1
            return
        self._to_memory("it cannot be created")

    def _make(self) -> None:
        """Creates a new file with its tables in one step."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f".part-{os.urandom(4).hex()}.sqlite")
        try:
            part.touch()  # SQLite creates files as 0644 at most, so a group could not write; journals get this file's mode
            with closing(sqlite3.connect(part)) as database:
                database.executescript(f"{self._schema}; PRAGMA user_version={self._version};")
            try:
                os.link(part, self.file)
            except FileExistsError:
                raise
            except OSError:  # the file system has no hard links
                part.rename(self.file)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _accept(self) -> None:
        """Uses the existing file if it is intact and can be written.

        Raises:
            sqlite3.Error: the file is damaged, has another version, or cannot be written.
        """
        identity = _identity(self.file)
        try:
            with closing(_connect(self.file, seconds=_SHORT_SECONDS)) as database:
                self._inspect(database)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # a locked file is fine: the process that writes it has checked it
                raise
        held = _connect(self.file, "mode=ro", _SHORT_SECONDS)  # read-only, so that the disk can still be remounted read-only
        try:
            held.execute("PRAGMA user_version").fetchone()  # opens the file, which connecting alone does not
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        held.execute("PRAGMA busy_timeout=0")
        with self._watching:
            old, self._held, self._identity = self._held, held, identity
            if old is not None:
                old.close()

    def _inspect(self, database: sqlite3.Connection) -> None:
        """Raises a sqlite3.Error if a file is damaged, has another version, cannot be written, or is locked by a writer."""
        if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the file is damaged")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != self._version:
            raise sqlite3.DatabaseError(f"unsupported file: made by another version of the program ({version})")
        with contextlib.suppress(sqlite3.OperationalError):  # a file of an older version may be in WAL mode, and in use
            database.execute("PRAGMA journal_mode=DELETE")
        with _transaction(database):
            database.execute(f"PRAGMA user_version={self._version}")  # a write, to test whether the disk allows it
        database.executescript(self._schema)

    def _to_memory(self, reason: str) -> None:
        log.error("%s cannot be written (%s); until it can, its content is kept in memory", self.file, reason)
        self._memory, self.fallback, self._tried = self._copied(), reason, time.monotonic()
        self.generation += 1

    def _copied(self) -> sqlite3.Connection:
        """Returns the file's content in memory if it can be read, or empty tables."""
        for options in ("mode=ro", "mode=ro&immutable=1"):  # the second is for a read-only disk that contains a journal
            memory = _in_memory()
            with contextlib.suppress(OSError, sqlite3.Error), closing(_connect(self.file, options)) as database:
                database.backup(memory)
                sound = memory.execute("PRAGMA quick_check").fetchone()[0] == "ok"
                if sound and memory.execute("PRAGMA user_version").fetchone()[0] == self._version:
                    memory.executescript(self._schema)
                    return memory
            memory.close()
        memory = _in_memory()
        memory.executescript(self._schema)
        return memory

    def _set_aside(self, error: Exception) -> None:
        log.warning("%s cannot be used (%s); it is set aside and created again", self.file, error)
        for suffix in ("", "-wal", "-shm", "-journal"):
            part = self.file.with_name(self.file.name + suffix)
            with contextlib.suppress(OSError):
                os.replace(part, part.with_name(f"{part.name}.damaged"))


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)


def _connect(file: Path, options: str = "mode=rw", seconds: float = _WAIT_SECONDS) -> sqlite3.Connection:
    """Returns a connection to an existing file. seconds: max time to wait for another process that writes."""
    uri = f"{file.absolute().as_uri()}?{options}"
    return sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
