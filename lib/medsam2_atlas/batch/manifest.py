"""The manifest of a batch: JSON Lines, one line for each case, appended when the case has ended.

Only the process that holds the lock of the output folder writes it. A line is written in one call and is complete once it ends
in a line feed. A process that is killed while it writes leaves a torn last line, which the next run removes; its case is then
done again. If a case has several lines, the last one counts; `compact` removes the others.

A line is of one of two kinds. A *run* has the key `run` with a digest, and says how results are made: segmenter, options,
provenance. A *case* has the key `case` with its name.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.names import is_safe_name

log = logging.getLogger(__name__)

Entry = dict[str, Any]
"""A line of the manifest. For a case: `case`, `id`, `status` (`done` or `failed`), `input`, `made_by` (digest of a run),
`output` or `reason`, `attempts`, `seconds`, `finished`."""

_SYNC_SECONDS = 2.0
"""Longest time between two calls of fsync: after a power failure, the cases of this time are done again."""


class Manifest:
    """The manifest of an output folder, read once and then appended to."""

    def __init__(self, file: Path) -> None:
        """Reads a manifest and repairs its end.

        Args:
            file: the file; it need not exist.

        Raises:
            StorageError: the file cannot be read or written.
        """
        self.file = file
        self._entries: dict[str, Entry] = {}
        self._runs: dict[str, Entry] = {}
        self._superseded = 0
        self._stream: BinaryIO | None = None
        self._synced = time.monotonic()
        try:
            self._read()
        except OSError as error:
            raise StorageError(file, f"cannot be read ({error.strerror}).", "Check its permissions.") from error

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """Returns the current entry of each case, in the order of the cases' first lines."""
        return list(self._entries.values())

    def entry(self, key: str) -> Entry | None:
        """Returns the current entry of the case with that id; None if there is none."""
        return self._entries.get(key)

    def names(self) -> dict[str, str]:
        """Returns the names of all cases by id."""
        return {key: str(entry["case"]) for key, entry in self._entries.items()}

    def add_run(self, digest: str, about: Mapping[str, Any]) -> None:
        """Appends how results are made, once for each digest."""
        if digest not in self._runs:
            self._append({"run": digest, **about})
            self._runs[digest] = {"run": digest, **about}

    def add(self, entry: Entry) -> None:
        """Appends the entry of a case. It is in the file when this method returns.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self._append(entry)
        self._superseded += entry["id"] in self._entries
        self._entries[entry["id"]] = entry

    def compact(self) -> None:
        """Removes lines that a later line of the same case supersedes, in one step."""
        if not self._superseded:
            return
        self.close()
        try:
            with replacing(self.file) as part, part.open("wb") as stream:
                for entry in (*self._runs.values(), *self._entries.values()):
                    stream.write(_line(entry))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:  # the disk is full, or a quota; the manifest is valid as it is
            log.warning("%s keeps superseded lines (%s)", self.file, error.strerror)
            return
        self._superseded = 0

    def close(self) -> None:
        """Writes everything to the disk and closes the file; the next entry opens it again."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._stream is None:
            self._stream = self.file.open("ab", buffering=0)
        line = _line(entry)
        before = os.fstat(self._stream.fileno()).st_size
        try:
            written = self._stream.write(line)
        except OSError:
            os.truncate(self._stream.fileno(), before)
            raise
        if written != len(line):  # the disk became full in the middle of the line
            os.truncate(self._stream.fileno(), before)
            raise OSError(28, "No space left on device", str(self.file))
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def _read(self) -> None:
        if not self.file.exists():
            return
        whole = 0
        with self.file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._take(line, number)
        if whole != self.file.stat().st_size:
            log.warning("%s: its last line was torn by an interruption; its case is done again", self.file)
            os.truncate(self.file, whole)

    def _take(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("run"), str):
            self._runs[entry["run"]] = entry
        elif isinstance(entry, dict) and _is_case(entry):
            self._superseded += entry["id"] in self._entries
            self._entries[entry["id"]] = entry
        else:
            log.warning("%s: line %d is not an entry and is ignored; its case is done again", self.file, number)
            self._superseded += 1


def case_entry(item: Item, status: str, key: str, about: dict[str, Any], attempts: int) -> Entry:
    """Returns an item's entry for the manifest."""
    finished = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    head = {"case": item.name, "id": item.id, "status": status, "made_by": key}
    return head | about | {"attempts": attempts, "finished": finished}


def failure_entry(item: Item, key: str, reason: str, *, passing: bool, attempts: int) -> Entry:
    """Returns the entry of an item that failed."""
    about = {"input": {"path": item.path, "stamp": item.stamp}, "reason": reason, "passing": passing}
    return case_entry(item, "failed", key, about, attempts)


def _is_case(entry: Entry) -> bool:
    """Returns whether an entry has what this module and its callers rely on; a manifest may come from elsewhere."""
    texts = all(isinstance(entry.get(key), str) for key in ("case", "id", "status", "made_by"))
    return texts and is_safe_name(entry["case"]) and all(isinstance(entry.get(key, {}), dict) for key in ("input", "output"))


def _line(entry: Mapping[str, Any]) -> bytes:
    """Returns an entry as a line. Surrogates in file names that are not UTF-8 become escapes, so that every line is UTF-8."""
    return (json.dumps(entry, ensure_ascii=True, separators=(",", ":")) + "\n").encode()
