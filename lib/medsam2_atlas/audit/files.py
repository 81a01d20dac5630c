"""Writes the files of the audit log: appends lines, each with a digest of the line before it, and closes full files.

Only one thread of one process at a time (`flock` on the folder) appends lines to `audit.jsonl`, each with one `write`. A file
that is large enough, or from another day, is renamed to `audit-YYYYMMDD-N.jsonl`. The first line of the next file contains the
digest of the last line of this file.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from medsam2_atlas.base import file_modes
from medsam2_atlas.base.files import opened

log = logging.getLogger(__name__)

FOLDER, CURRENT = "audit", "audit.jsonl"
ROTATED = re.compile(r"audit-(?P<day>\d{8})-(?P<number>\d{1,6})\.jsonl")
FIRST = "0" * 32
"""The `prev` of the first line of the log."""
MAX_LINE_BYTES = 1 << 15

_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class AuditLimits:
    """The limits of the files of an audit log.

    Attributes:
        max_bytes: the size in bytes at which a file is closed.
        keep_days: the number of days after which closed files are removed; 0 keeps them forever.
    """

    max_bytes: int = 50_000_000
    keep_days: int = 0


@dataclass
class _End:
    """The end of the current file when this process last wrote or read it.

    Attributes:
        inode: the inode of the file.
        size: its size in bytes.
        digest: the digest of its last line; for an empty file, of the last line of the previous file.
        day: the day of its first line; empty for an empty file.
    """

    inode: int
    size: int
    digest: str
    day: str


class AuditFiles:
    """Appends lines to the files of an audit log. One thread at a time may use it.

    Args:
        work_folder: the work folder of the studies.
        limits: the limits of the files.
    """

    def __init__(self, work_folder: Path, limits: AuditLimits) -> None:
        self.folder, self.limits = work_folder / FOLDER, limits
        self._work_folder = work_folder
        self._end: _End | None = None

    @contextmanager
    def writing(self, flush: bool) -> Iterator[None]:
        """Locks the log for the duration of the block, which may call `add`.

        Args:
            flush: whether to flush all lines to disk after the block.

        Raises:
            OSError: the folder cannot be used, or a line cannot be written.
            StorageError: another process has held the lock for too long.
        """
        from medsam2_atlas.storage.lock import FolderLock

        if not self.folder.is_dir():
            self._make_folder(self._work_folder, 0o700)
            self._make_folder(self.folder, file_modes.folder_mode(self._work_folder))
        with FolderLock(self.folder, _LOCK_SECONDS).held():
            self._handle = self._open()
            try:
                yield
                if flush:
                    os.fsync(self._handle)
            finally:
                os.close(self._handle)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Appends one line completely or not at all: a line that a full disk cuts off is removed.

        Args:
            entry: the content of the line, without `prev`.

        Raises:
            OSError: the line cannot be written.
        """
        end = self._found_end()
        if end.size and (end.size >= self.limits.max_bytes or (end.day and end.day != day_of(utc_now()))):
            self._rotate(end)
            end = self._found_end()
        line = json.dumps({**entry, "prev": end.digest}, separators=(",", ":")).encode() + b"\n"
        torn = end.size > 0 and os.pread(self._handle, 1, end.size - 1) != b"\n"  # a power cut
        written = os.write(self._handle, b"\n" * torn + line)
        if written != torn + len(line):
            os.ftruncate(self._handle, end.size)
            raise OSError(None, "the disk is full")
        self._end = _End(end.inode, end.size + written, digest_of(line[:-1]), end.day or day_of(entry.get("at")))

    def remove_old(self) -> int:
        """Removes closed files that are older than `limits.keep_days`; returns their number."""
        if not self.limits.keep_days:
            return 0
        oldest = (datetime.now(timezone.utc) - timedelta(days=self.limits.keep_days)).strftime("%Y%m%d")
        removed = 0
        for file in closed_files(self.folder):
            match = ROTATED.fullmatch(file.name)
            if match and match["day"] < oldest:
                try:
                    file.unlink(missing_ok=True)
                    removed += 1
                except OSError as error:
                    log.warning("%s cannot be removed: %s", file, error)
        if removed:
            log.info("removed %d files of the audit log that were older than %d days", removed, self.limits.keep_days)
        return removed

    def _open(self) -> int:
        file, flags = self.folder / CURRENT, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            handle = os.open(file, flags | os.O_CREAT | os.O_EXCL, file_modes.file_mode(self._work_folder))
            file_modes.hand_over(handle, self.folder)
            return handle

    def _make_folder(self, folder: Path, mode: int) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            file_modes.hand_over(folder, folder.parent)

    def _found_end(self) -> _End:
        """Returns the end of the current file."""
        state, known = os.fstat(self._handle), self._end
        same = known is not None and known.inode == state.st_ino
        if known is not None and same and known.size == state.st_size:
            return known
        if known is not None and same and known.size > state.st_size:
            # The next line continues from the lost one, so that `reading.check` finds the gap.
            log.error("%s was shortened by another program: lines are missing", self.folder / CURRENT)
            self._end = _End(state.st_ino, state.st_size, known.digest, known.day)
        elif not state.st_size:
            closed = closed_files(self.folder)
            if known is not None and known.size and not any(file.stat().st_ino == known.inode for file in closed):
                # The known file is not among the closed ones. The next line continues from it, as above.
                log.error("%s was removed by another program: lines are missing", self.folder / CURRENT)
                before = known.digest
            else:
                before = digest_of(_last_line(_tail(closed[-1]))) if closed else FIRST
            self._end = _End(state.st_ino, 0, before, "")
        else:
            tail = os.pread(self._handle, 2 * MAX_LINE_BYTES, max(0, state.st_size - 2 * MAX_LINE_BYTES))
            head = os.pread(self._handle, MAX_LINE_BYTES, 0)
            self._end = _End(state.st_ino, state.st_size, digest_of(_last_line(tail)), _first_day(head))
        return self._end

    def _rotate(self, end: _End) -> None:
        """Closes the current file by renaming it, with a name that sorts after all closed files, and begins the next one."""
        closed = closed_files(self.folder)
        last = ROTATED.fullmatch(closed[-1].name) if closed else None
        day, number = end.day or day_of(utc_now()), 1
        if last and last["day"] >= day:  # the clock may have been set back
            day, number = last["day"], int(last["number"]) + 1
        (self.folder / CURRENT).rename(self.folder / f"audit-{day}-{number}.jsonl")
        before, self._handle = self._handle, self._open()
        os.close(before)
        # The digest is kept in memory, since the closed file may be old enough to be removed at once.
        self._end = _End(os.fstat(self._handle).st_ino, 0, end.digest, "")
        self.remove_old()


def closed_files(folder: Path) -> list[Path]:
    """Returns the closed files in the folder of an audit log, the oldest first."""
    try:
        found = [(match, entry) for entry in folder.iterdir() if (match := ROTATED.fullmatch(entry.name)) and entry.is_file()]
    except OSError:
        return []
    return [entry for match, entry in sorted(found, key=lambda pair: (pair[0]["day"], int(pair[0]["number"])))]


def digest_of(line: bytes) -> str:
    """Returns the digest of a line without its line end. The next line contains it as `prev`."""
    return sha256(line).hexdigest()[:32]


def utc_now() -> str:
    """Returns the current time: ISO 8601, UTC, with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_of(at: object) -> str:
    """Returns the day of a time as in names of closed files, or an empty string if the value is not a time.

    >>> day_of("2026-11-26T08:30:00.000Z"), day_of(None)
    ('20261126', '')
    """
    day = str(at)[:10].replace("-", "")
    return day if re.fullmatch(r"\d{8}", day) else ""


def _tail(file: Path) -> bytes:
    with opened(file, follow=True) as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 2 * MAX_LINE_BYTES))
        return stream.read()


def _last_line(tail: bytes) -> bytes:
    return tail.rstrip(b"\n").rpartition(b"\n")[2]


def _first_day(head: bytes) -> str:
    """Returns the day of the first line; empty if it cannot be read."""
    try:
        entry = json.loads(head.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return ""
    return day_of(entry.get("at")) if isinstance(entry, dict) else ""
