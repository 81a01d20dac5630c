"""The audit log of a set of studies: who did what to which study, when, and how it ended.

The work folder's `audit/audit.jsonl` holds one JSON object per line; lines are only ever added, by the server and by commands
(`files`). A line holds a digest of the line before it (`prev`), so that changed and removed lines can be found
(`reading.check`).

A line that cannot be written stops nobody's work: what was done is done. The line is kept in memory and written when that is
possible again. The log and `problem` tell of it meanwhile.
"""

from __future__ import annotations

import getpass
import logging
import os
import threading
import time
from collections import deque
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2_atlas.audit.entry import AuditEntry
from medsam2_atlas.audit.files import CURRENT, AuditFiles, AuditLimits, utc_now
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.study_hash import StudyNames

if TYPE_CHECKING:
    from medsam2_atlas.storage import WorkFolder

log = logging.getLogger(__name__)

_MAX_KEPT = 10_000
_TOLD_SECONDS = 60.0
_RETRY_SECONDS = 5.0
"""After a failure, lines only wait in memory for so long: no request waits for a disk that others found unusable."""


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
        self.files = AuditFiles(work_folder, limits or AuditLimits())
        self._work_folder, self._plain = work_folder, plain
        self._threads = threading.RLock()
        self._kept: deque[dict[str, Any]] = deque()
        self._lost, self._problem, self._told, self._failed = 0, "", float("-inf"), float("-inf")

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

    def record(self, entry: AuditEntry, *, flush: bool = True) -> bool:
        """Adds a line.

        Args:
            entry: its content.
            flush: whether to wait until the line is on disk, and not only with the operating system.

        Returns:
            Whether the line was written; otherwise it is kept in memory.
        """
        filled = entry.as_line(utc_now(), self.names.hashed(entry.study) if entry.study else "")
        with self._threads:
            self._kept.append(filled)
            if time.monotonic() - self._failed < _RETRY_SECONDS:
                self._drop_oldest()
                return False
            return self._written(flush)

    def flush(self) -> bool:
        """Writes the lines that are kept in memory; returns whether none are left."""
        with self._threads:
            return not self._kept or self._written(True)

    def _written(self, flush: bool) -> bool:
        """Writes all lines that are kept; what cannot be written stays."""
        try:
            with self.files.writing(flush):
                while self._kept:  # the oldest first
                    self.files.add(self._kept[0])
                    self._kept.popleft()
                if self._lost:
                    loss = {"at": utc_now(), "action": "audit.lost", "outcome": "failed", "details": {"lines": self._lost}}
                    self.files.add(loss)
                    self._lost = 0
        except (OSError, StorageError) as error:
            self._failed = time.monotonic()
            self._drop_oldest()
            self._tell(error.problem if isinstance(error, StorageError) else error.strerror or str(error))
            return False
        self._failed = float("-inf")
        if self._problem:
            log.warning("the audit log %s is written again", self.files.folder / CURRENT)
            self._problem, self._told = "", float("-inf")
        return True

    def _drop_oldest(self) -> None:
        while len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
            self._lost += 1

    def _tell(self, problem: str) -> None:
        changed, self._problem = problem != self._problem, problem
        if changed or time.monotonic() - self._told > _TOLD_SECONDS:
            self._told = time.monotonic()
            log.error("the audit log %s cannot be written: %s", self.files.folder / CURRENT, self.problem)


def record_command(work: WorkFolder, action: str, **more: Any) -> None:
    """Adds a line about what a command does to studies, on behalf of the operating system's user.

    Args:
        work: work folder of the studies.
        action: what is done.
        more: further attributes of `AuditEntry`.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        name = ""
    AuditLog.of(work).record(AuditEntry(action, who=name, who_id=f"os:{os.getuid()}", place="command line", **more))
