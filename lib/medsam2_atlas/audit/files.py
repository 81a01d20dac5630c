"""Files of the audit log: lines are added, chained by digests, and files are closed.

One writer at a time, of all threads and processes (`flock` on the folder), adds lines to `audit.jsonl`, each with one `write`.
A file that is large enough, or of another day, is renamed to `audit-YYYYMMDD-N.jsonl`; the next one goes on with its digest.
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
"""`prev` of the very first line."""
MAX_LINE_BYTES = 1 << 15

_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class AuditLimits:
    """When a file of the audit log is closed, and how long closed ones stay.

    Attributes:
        max_bytes: size of a file after which the next one begins.
        keep_days: days that closed files stay; 0 for ever.
    """

    max_bytes: int = 50_000_000
    keep_days: int = 0


@dataclass
class _End:
    """The end of the current file as this process knows it. day: of the file's first line; empty for an empty file."""

    inode: int
    size: int
    digest: str
    day: str


class AuditFiles:
    """Adds lines to the files of an audit log. Must be used by one thread at a time."""

    def __init__(self, work_folder: Path, limits: AuditLimits) -> None:
        """
        Args:
            work_folder: `.medsam2_atlas` of the studies.
            limits: of the files.
        """
        self.folder, self.limits = work_folder / FOLDER, limits
        self._work_folder = work_folder
        self._end: _End | None = None

    @contextmanager
    def writing(self, flush: bool) -> Iterator[None]:
        """Lets nobody else write while the block calls `add`. flush: whether all lines are on disk when it ends.

        Raises:
            OSError: the folder cannot be used, or a line cannot be written.
            StorageError: another process writes for too long.
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
        """Adds one line, or nothing: a line that a full disk cuts off is taken back.

        Raises:
            OSError: it cannot be written.
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
        """Removes closed files that are older than `limits.keep_days`; returns how many were removed."""
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
            log.info("%d files of the audit log were removed: they were older than %d days", removed, self.limits.keep_days)
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
        """Returns the end of the current file; of an empty one, with the digest of the file before."""
        state, known = os.fstat(self._handle), self._end
        same = known is not None and known.inode == state.st_ino
        if known is not None and same and known.size == state.st_size:
            return known
        if known is not None and same and known.size > state.st_size:
            # Its next line goes on from the lost one, so that `reading.check` finds the gap.
            log.error("%s was made shorter by another program: lines are missing", self.folder / CURRENT)
            self._end = _End(state.st_ino, state.st_size, known.digest, known.day)
        elif not state.st_size:
            closed = closed_files(self.folder)
            if known is not None and known.size and not any(file.stat().st_ino == known.inode for file in closed):
                # Nobody has closed the file that this process knows. The next line goes on from it, as above.
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
        """Gives the current file the name of a closed one, after all others in order, and begins the next one."""
        closed = closed_files(self.folder)
        last = ROTATED.fullmatch(closed[-1].name) if closed else None
        day, number = end.day or day_of(utc_now()), 1
        if last and last["day"] >= day:  # also where the clock was set back
            day, number = last["day"], int(last["number"]) + 1
        (self.folder / CURRENT).rename(self.folder / f"audit-{day}-{number}.jsonl")
        before, self._handle = self._handle, self._open()
        os.close(before)
        # Kept, since the file that was closed may be old enough to be removed at once.
        self._end = _End(os.fstat(self._handle).st_ino, 0, end.digest, "")
        self.remove_old()


def closed_files(folder: Path) -> list[Path]:
    """Returns the closed files of an audit log's folder, the oldest first."""
    try:
        found = [(match, entry) for entry in folder.iterdir() if (match := ROTATED.fullmatch(entry.name)) and entry.is_file()]
    except OSError:
        return []
    return [entry for match, entry in sorted(found, key=lambda pair: (pair[0]["day"], int(pair[0]["number"])))]


def digest_of(line: bytes) -> str:
    """Returns the digest of a line without its end, which the next line has as `prev`."""
    return sha256(line).hexdigest()[:32]


def utc_now() -> str:
    """Returns the time, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_of(at: object) -> str:
    """Returns the day of a time as in names of closed files, such as 20261126; empty if it is no time."""
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
