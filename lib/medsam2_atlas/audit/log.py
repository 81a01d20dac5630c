"""The audit log of a set of studies: the actions of people on studies, with time and outcome.

`audit/audit.jsonl` in the work folder contains one JSON object per line. The server and commands only append lines (`files`).
A line contains a digest of the line before it (`prev`), so that changed and removed lines can be found (`reading.check`).

If a line cannot be written, the action is still done. The line stays in memory and is written as soon as possible. Until then,
the log and `problem` report the failure.
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
_REPORT_SECONDS = 60.0
"""The min time between two log lines about the same problem."""
_RETRY_SECONDS = 5.0
"""For this time after a failure, lines are only kept in memory, so that requests do not wait for an unusable disk."""


class AuditLog:
    """Appends lines to the audit log of a set of studies. All methods may be called from any thread; none raises OSError.

    Args:
        work_folder: the work folder of the studies.
        plain: whether names of studies are written as plain text instead of keyed hashes.
        limits: the limits of its files.
    """

    _opened: dict[tuple[Path, bool], AuditLog] = {}  # noqa: RUF012
    _opening = threading.Lock()

    def __init__(self, work_folder: Path, plain: bool = False, limits: AuditLimits | None = None) -> None:
        self.files = AuditFiles(work_folder, limits or AuditLimits())
        self._work_folder, self._plain = work_folder, plain
        self._threads = threading.RLock()
        self._kept: deque[dict[str, Any]] = deque()
        self._lost, self._problem, self._reported, self._failed = 0, "", float("-inf"), float("-inf")

    @classmethod
    def of(cls, work: WorkFolder, plain: bool = False) -> AuditLog:
        """Returns this process' audit log of a work folder."""
        key = (work.path.absolute(), plain)
        with cls._opening:
            return cls._opened.setdefault(key, cls(work.path, plain))

    @cached_property
    def names(self) -> StudyNames:
        """The converter of study names to the form that is written to the log."""
        return StudyNames(self._work_folder, self._plain)

    @property
    def problem(self) -> str:
        """The reason why lines cannot be written now; empty if they can."""
        with self._threads:
            return f"{len(self._kept)} lines wait in memory, {self._lost} are lost ({self._problem})." if self._problem else ""

    def record(self, entry: AuditEntry, *, flush: bool = True) -> bool:
        """Appends a line.

        Args:
            entry: the content of the line.
            flush: whether to wait until the line is on disk. Otherwise the operating system may write it later.

        Returns:
            Whether the line was written. If not, it is kept in memory.
        """
        filled = entry.as_line(utc_now(), self.names.hashed(entry.study) if entry.study else "")
        with self._threads:
            self._kept.append(filled)
            if time.monotonic() - self._failed < _RETRY_SECONDS:
                self._drop_oldest()
                return False
            return self._written(flush)

    def flush(self) -> bool:
        """Writes the lines that are kept in memory; returns whether all were written."""
        with self._threads:
            return not self._kept or self._written(True)

    def _written(self, flush: bool) -> bool:
        """Writes all lines that are kept in memory; keeps those that cannot be written."""
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
            self._report(error.problem if isinstance(error, StorageError) else error.strerror or str(error))
            return False
        self._failed = float("-inf")
        if self._problem:
            log.warning("the audit log %s can be written again", self.files.folder / CURRENT)
            self._problem, self._reported = "", float("-inf")
        return True

    def _drop_oldest(self) -> None:
        while len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
            self._lost += 1

    def _report(self, problem: str) -> None:
        changed, self._problem = problem != self._problem, problem
        if changed or time.monotonic() - self._reported > _REPORT_SECONDS:
            self._reported = time.monotonic()
            log.error("the audit log %s cannot be written: %s", self.files.folder / CURRENT, self.problem)


def record_command(work: WorkFolder, action: str, **more: Any) -> None:
    """Appends a line about a command's action on studies. The person is the user of the operating system.

    Args:
        work: the work folder of the studies.
        action: the action.
        more: further attributes of `AuditEntry`.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # the user has no name
        name = ""
    AuditLog.of(work).record(AuditEntry(action, who=name, who_id=f"os:{os.getuid()}", place="command line", **more))
