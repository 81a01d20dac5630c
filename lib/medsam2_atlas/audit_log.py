"""The audit log of a set of studies: who did what to which study, when, and how it ended.

`audit/audit.jsonl` in the work folder holds one JSON object per line; lines are only ever added. Server and commands write to
the same file: a lock on its folder (`flock`) allows one writer at a time, and each line is one `write`. A line holds a digest
of the line before it (`prev`), so that changed and removed lines can be found (`audit_reading.check`). A file that is large
enough, or of another day, is renamed to `audit-YYYYMMDD-N.jsonl`; the next file goes on with its last digest.

A line that cannot be written stops nobody's work: what was done is done. The line is kept in memory and written when that is
possible again. The log and `problem` tell of it meanwhile.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medsam2_atlas import file_modes
from medsam2_atlas.errors import StorageError
from medsam2_atlas.study_hash import StudyNames

if TYPE_CHECKING:
    from medsam2_atlas.storage import WorkFolder

log = logging.getLogger(__name__)

Outcome = Literal["done", "refused", "failed"]

FOLDER, CURRENT = "audit", "audit.jsonl"
ROTATED = re.compile(r"audit-(?P<day>\d{8})-(?P<number>\d{1,6})\.jsonl")
FIRST = "0" * 32
"""`prev` of the very first line."""

_MAX_KEPT = 10_000
_MAX_TEXT, _MAX_DETAILS = 256, 24
_TAIL_BYTES = 1 << 16
"""More than the longest line has."""
_LOCK_SECONDS = 5.0
_TOLD_SECONDS = 60.0


@dataclass(frozen=True)
class AuditLimits:
    """When a file of the audit log is closed, and how long closed ones stay.

    Attributes:
        max_bytes: size of a file after which the next one begins.
        keep_days: days that closed files stay; 0 for ever.
    """

    max_bytes: int = 50_000_000
    keep_days: int = 0


class AuditLog:
    """Adds lines to the audit log of a set of studies. All methods may be called from any thread; none raises OSError."""

    _opened: dict[tuple[Path, bool], AuditLog] = {}  # noqa: RUF012
    _opening = threading.Lock()

    def __init__(self, work_folder: Path, plain: bool = False, limits: AuditLimits | None = None) -> None:
        """
        Args:
            work_folder: `.medsam2_atlas` of the studies.
            plain: whether names of studies are written as they are, not as keyed hashes.
            limits: of its files.
        """
        self.folder, self.limits = work_folder / FOLDER, limits or AuditLimits()
        self._work_folder, self._plain = work_folder, plain
        self._threads = threading.RLock()
        self._kept: deque[dict[str, Any]] = deque()
        self._lost, self._problem, self._told = 0, "", float("-inf")
        self._last: tuple[tuple[int, int], str, str] | None = None  # inode and size, digest of the last line, first day

    @classmethod
    def of(cls, work: WorkFolder, plain: bool = False) -> AuditLog:
        """Returns this process' audit log of a work folder."""
        key = (work.path.absolute(), plain)
        with cls._opening:
            return cls._opened.setdefault(key, cls(work.path, plain))

    @cached_property
    def names(self) -> StudyNames:
        """How names of studies are written."""
        return StudyNames(self._work_folder, self._plain)

    @property
    def problem(self) -> str:
        """Why lines cannot be written at the moment; empty if they can."""
        with self._threads:
            return f"{len(self._kept)} lines wait in memory, {self._lost} are lost ({self._problem})." if self._problem else ""

    def record(
        self,
        action: str,
        *,
        who: str = "",
        who_id: str = "",
        role: str = "",
        study: str = "",
        tag: str = "",
        version: int | None = None,
        outcome: Outcome = "done",
        status: int | None = None,
        place: str = "",
        request: str = "",
        details: Mapping[str, Any] | None = None,
        flush: bool = True,
    ) -> bool:
        """Adds a line.

        Args:
            action: what was done, such as `label.save`; docs/server.md lists all actions.
            who: name of the person, as people read it.
            who_id: what tells the person apart from all others.
            role: the person's role.
            study: name of the study; written as a keyed hash unless names are plain.
            tag: of the label map.
            version: of the label map, or of the server.
            outcome: how it ended.
            status: HTTP status.
            place: address of the client, or `command line`.
            request: id of the request.
            details: more, as JSON values. They must not hold names of studies.
            flush: whether to wait until the line is on disk, and not only with the operating system.

        Returns:
            Whether the line was written; otherwise it is kept in memory.
        """
        entry: dict[str, Any] = {
            "at": _now(),
            "who": _short(who),
            "who_id": _short(who_id),
            "role": role,
            "place": _short(place),
        }
        entry |= {"action": action, "tag": _short(tag)}
        entry |= {"study": _short(self.names.hashed(study)) if study else ""}
        entry |= {"version": version, "outcome": outcome, "status": status, "request": request, "details": _limited(details)}
        filled = {key: value for key, value in entry.items() if value not in ("", None, {})}
        with self._threads:
            self._kept.append(filled)
            return self._written(flush)

    def flush(self) -> bool:
        """Writes the lines that are kept in memory; returns whether none are left."""
        with self._threads:
            return not self._kept or self._written(True)

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

    def _written(self, flush: bool) -> bool:
        """Writes all lines that are kept; what cannot be written stays."""
        from medsam2_atlas.storage.lock import FolderLock

        try:
            self._make_folder()
            with FolderLock(self.folder, _LOCK_SECONDS).held():
                self._add_all(flush)
        except (OSError, StorageError) as error:
            self._tell(error.problem if isinstance(error, StorageError) else error.strerror or str(error))
            return False
        if self._problem:
            log.warning("the audit log %s is written again", self.folder / CURRENT)
            self._problem, self._told = "", float("-inf")
        return True

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self._work_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=file_modes.folder_mode(self._work_folder), exist_ok=True)

    def _add_all(self, flush: bool) -> None:
        """Adds what is kept, line by line, under the lock."""
        file = self.folder / CURRENT
        handle = self._open(file)
        try:
            while self._kept or self._lost:  # the oldest first
                digest, day = self._end_of(handle)
                if self._is_full(handle, day):
                    os.close(handle)
                    handle = -1
                    self._rotate(file, day)
                    handle = self._open(file)
                loss = {"at": _now(), "action": "audit.lost", "outcome": "failed", "details": {"lines": self._lost}}
                self._add(handle, {**(self._kept[0] if self._kept else loss), "prev": digest})
                if self._kept:
                    self._kept.popleft()
                else:
                    self._lost = 0
            if flush:
                os.fsync(handle)
        finally:
            if handle >= 0:
                os.close(handle)

    def _open(self, file: Path) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(file, flags, file_modes.file_mode(self._work_folder))

    def _add(self, handle: int, entry: Mapping[str, Any]) -> None:
        """Adds one line, or nothing: a line that a full disk cuts off is taken back."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(handle)
        torn = before.st_size > 0 and os.pread(handle, 1, before.st_size - 1) != b"\n"  # a power cut
        written = os.write(handle, b"\n" * torn + line)
        if written != torn + len(line):
            os.ftruncate(handle, before.st_size)
            raise OSError(None, "the disk is full")
        day = self._last[2] if self._last and before.st_size else _day(entry)
        self._last = (before.st_ino, before.st_size + written), _digest(line[:-1]), day

    def _end_of(self, handle: int) -> tuple[str, str]:
        """Returns the digest of the last line, and the day of the first; of the file before where this one is empty."""
        state = os.fstat(handle)
        if self._last and self._last[0] == (state.st_ino, state.st_size):
            return self._last[1], self._last[2]
        if not state.st_size:
            closed = closed_files(self.folder)
            digest = _digest(_last_line(_tail(closed[-1]))) if closed else FIRST
            self._last = (state.st_ino, 0), digest, ""
        else:
            digest = _digest(_last_line(os.pread(handle, _TAIL_BYTES, max(0, state.st_size - _TAIL_BYTES))))
            self._last = (state.st_ino, state.st_size), digest, _first_day(os.pread(handle, _TAIL_BYTES, 0))
        return self._last[1], self._last[2]

    def _is_full(self, handle: int, day: str) -> bool:
        size = os.fstat(handle).st_size
        return size > 0 and (size >= self.limits.max_bytes or (bool(day) and day != _now()[:10].replace("-", "")))

    def _rotate(self, file: Path, day: str) -> None:
        """Gives the current file the name of a closed one, after all others in order."""
        closed = closed_files(self.folder)
        last = ROTATED.fullmatch(closed[-1].name) if closed else None
        day, number = day or _now()[:10].replace("-", ""), 1
        if last and last["day"] >= day:  # also where the clock was set back
            day, number = last["day"], int(last["number"]) + 1
        file.rename(self.folder / f"audit-{day}-{number}.jsonl")
        self._last = None
        self.remove_old()

    def _tell(self, problem: str) -> None:
        while len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
            self._lost += 1
        changed, self._problem = problem != self._problem, problem
        if changed or time.monotonic() - self._told > _TOLD_SECONDS:
            self._told = time.monotonic()
            log.error("the audit log %s cannot be written: %s", self.folder / CURRENT, self.problem)


def record_command(work: WorkFolder, action: str, **more: Any) -> None:
    """Adds a line about what a command does to studies, on behalf of the operating system's user.

    Args:
        work: work folder of the studies.
        action: what is done.
        more: further arguments of `AuditLog.record`.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        name = ""
    AuditLog.of(work).record(action, who=name, who_id=f"os:{os.getuid()}", place="command line", **more)


def closed_files(folder: Path) -> list[Path]:
    """Returns the closed files of an audit log's folder, the oldest first."""
    try:
        found = [(match, entry) for entry in folder.iterdir() if (match := ROTATED.fullmatch(entry.name))]
    except OSError:
        return []
    return [entry for match, entry in sorted(found, key=lambda pair: (pair[0]["day"], int(pair[0]["number"])))]


def _digest(line: bytes) -> str:
    return sha256(line).hexdigest()[:32]


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        return stream.read()


def _last_line(tail: bytes) -> bytes:
    return tail.rstrip(b"\n").rpartition(b"\n")[2]


def _first_day(head: bytes) -> str:
    """Returns the day of the first line; empty if it cannot be read."""
    try:
        return _day(json.loads(head.partition(b"\n")[0]))
    except (ValueError, RecursionError):
        return ""


def _day(entry: Any) -> str:
    day = str(entry.get("at", ""))[:10].replace("-", "") if isinstance(entry, dict) else ""
    return day if re.fullmatch(r"\d{8}", day) else ""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(text: object) -> str:
    return str(text)[:_MAX_TEXT]


def _limited(details: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns few and short values; JSON escapes what control characters they have."""
    kept = list((details or {}).items())[:_MAX_DETAILS]
    return {_short(key): _value(value) for key, value in kept}


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value[:_MAX_DETAILS]]
    return value if value is None or isinstance(value, (bool, int)) else _short(value)
