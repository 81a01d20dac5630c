"""Remembers files that killed or outran a reader process; they are not tried again until they change."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from datetime import datetime, timezone
from pathlib import Path

from medsam2_atlas.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.files import write_json

log = logging.getLogger(__name__)

_MAX_ENTRIES = 1000


class UnreadableFileError(InputError):
    """A file that killed its reader process, or took longer or more memory than the limits allow."""


class Unreadable:
    """The list of such files, in memory and, if a file is given, across restarts. Safe for several threads."""

    def __init__(self, file: Path | None = None) -> None:
        """
        Args:
            file: JSON file of the list. Another process may overwrite it; lost entries are recorded again at the next try.
        """
        self._file, self._lock = file, threading.Lock()
        self._entries: dict[str, dict[str, str]] = self._stored()

    def check(self, path: Path) -> None:
        """Accepts a file that is not listed, or has changed since.

        Raises:
            UnreadableFileError: it is listed and unchanged.
        """
        with self._lock:
            entry = self._entries.get(str(path))
        if entry is not None and entry["stamp"] == _stamp(path):
            raise UnreadableFileError(path, f"{entry['problem']} It has not changed since {entry['when']}.", _REMEDY)

    def all(self) -> dict[Path, str]:
        """Returns the listed files that have not changed since, with their effect on a reader."""
        with self._lock:
            entries = list(self._entries.items())
        return {Path(path): entry["problem"] for path, entry in entries if entry["stamp"] == _stamp(Path(path))}

    def add(self, path: Path, problem: str) -> UnreadableFileError:
        """Adds a file and returns the error to raise. A failure to write the list is only logged."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock:
            entry = {"stamp": _stamp(path), "problem": problem, "when": when}
            self._entries = {**self._stored(), **self._entries, str(path): entry}
            kept = [item for item in self._entries.items() if Path(item[0]).exists()]
            self._entries = dict(kept[-_MAX_ENTRIES:])
            if self._file is not None:
                try:
                    write_json(self._entries, self._file)
                except (OSError, MedSAM2AtlasError) as error:
                    log.warning("%s cannot be written: %s", self._file, error)
        log.error("%s %s", path, problem)
        return UnreadableFileError(path, problem, _REMEDY)

    def _stored(self) -> dict[str, dict[str, str]]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
            return {
                str(path): {key: str(entry[key]) for key in ("stamp", "problem", "when")} for path, entry in content.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read and is replaced: %s", self._file, error)
            return {}


_REMEDY = "Export the image again from its source; it is tried again when its file changes."


def _stamp(path: Path) -> str:
    """Returns a text that changes when a file, or a file of a folder, changes."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, state.st_size, state.st_mtime_ns) for file in files for state in (file.stat(),)]
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:20]
