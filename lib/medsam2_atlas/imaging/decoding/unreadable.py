"""Lists files that crashed a reader process or exceeded its limits, so that they are not decoded again each time.

A file that crashes its reader or makes it compute without end is listed until it changes. If the reader was killed from
outside, waited for a slow disk or ran out of memory, the file may be fine: it is tried again after one minute, then after four.
A third failure lists it until it changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.imaging.decoding.tree import file_states

log = logging.getLogger(__name__)

_MAX_ENTRIES = 1000
_FIRST_PAUSE_SECONDS = 60.0
_MAX_FAILURES = 3


class UnreadableFileError(InputError):
    """The error of a file that killed its reader process, or needed more time or memory than the limits allow."""


@dataclass(frozen=True)
class _Entry:
    """A listed file.

    Attributes:
        stamp: a hash of the file's state.
        problem: the effect on the reader.
        when: time of the last failure (ISO 8601).
        failures: number of failures.
        until: time at which it may be tried again, in seconds since 1970; 0 if the file must change first.
    """

    stamp: str
    problem: str
    when: str
    failures: int = 1
    until: float = 0.0

    def blocks(self, path: Path) -> bool:
        """Returns whether the file must not be tried now."""
        return self.stamp == _stamp(path) and (not self.until or time.time() < self.until)


class Unreadable:
    """The list of files that ended their readers, in memory and optionally in a file. Safe for several threads."""

    def __init__(self, file: Path | None = None) -> None:
        """Reads the list, if a file is given.

        Args:
            file: JSON file that stores the list across restarts. Another process may overwrite it; lost entries are recorded
                again at the next attempt.
        """
        self._file, self._lock = file, threading.Lock()
        self._entries: dict[str, _Entry] = self._stored()

    def check(self, path: Path) -> None:
        """Checks that a file is not listed, has changed, or may be tried again.

        Raises:
            UnreadableFileError: the file must not be tried now.
        """
        with self._lock:
            entry = self._entries.get(str(path))
        if entry is not None and entry.blocks(path):
            raise UnreadableFileError(path, f"{entry.problem} It has not changed since {entry.when}.", _remedy(entry))

    def all(self) -> dict[Path, str]:
        """Returns the listed files that must not be tried now, with their effect on a reader."""
        with self._lock:
            entries = list(self._entries.items())
        return {Path(path): entry.problem for path, entry in entries if entry.blocks(Path(path))}

    def add(self, path: Path, problem: str, *, lasting: bool) -> UnreadableFileError:
        """Adds a file and returns the error to raise. A failure to write the list is only logged.

        Args:
            path: the file.
            problem: its effect on a reader.
            lasting: whether the file itself is the cause, so that another attempt is useless.
        """
        when, stamp = datetime.now(timezone.utc).isoformat(timespec="seconds"), _stamp(path)
        with self._lock:
            before = self._entries.get(str(path))
            failures = 1 + (before.failures if before is not None and before.stamp == stamp else 0)
            pause = _FIRST_PAUSE_SECONDS * 4.0 ** (failures - 1)
            until = 0.0 if lasting or failures >= _MAX_FAILURES else time.time() + pause
            entry = _Entry(stamp, problem, when, failures, until)
            self._entries = {**self._stored(), **self._entries, str(path): entry}
            kept = [item for item in self._entries.items() if Path(item[0]).exists()]
            self._entries = dict(kept[-_MAX_ENTRIES:])
            if self._file is not None:
                try:
                    write_json({name: asdict(entry) for name, entry in self._entries.items()}, self._file)
                except (OSError, MedSAM2AtlasError) as error:
                    log.warning("%s cannot be written: %s", self._file, error)
        log.error("%s %s", path, problem)
        return UnreadableFileError(path, problem, _remedy(entry))

    def _stored(self) -> dict[str, _Entry]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
            return {
                path: _Entry(str(e["stamp"]), str(e["problem"]), str(e["when"]), int(e["failures"]), float(e["until"]))
                for path, e in content.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read and is replaced: %s", self._file, error)
            return {}


def _remedy(entry: _Entry) -> str:
    if entry.until:
        again = datetime.fromtimestamp(entry.until, timezone.utc).strftime("%H:%M:%S")
        return (
            f"It is tried again after {again} UTC. configs/server.yaml has the limits (`reader_seconds`, `reader_memory_mb`)."
        )
    return "Export the image again from its source; it is tried again when its file changes."


def _stamp(path: Path) -> str:
    """Returns a hash that changes if the file, or any file of the folder, changes."""
    try:
        states = file_states(path)
    except (InputError, OSError):
        return ""
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:20]
