"""The list of erased studies. It stores keyed hashes instead of names, so that a name is recognised when it is added again.

`erased.json` in the store's work folder contains a key and, for each name, the time of erasure and whether the name is barred.
A barred name is not accepted again; it belongs to a series that the PACS still has. If a name is not barred, an image of that
name can be added as a new study. Writers hold the lock of the studies.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import text_of
from medsam2_atlas.base.kept import Kept
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.safely import flush, temporary, write_safely

_FILE = "erased.json"
_JUST_SECONDS = 60.0


@dataclass(frozen=True)
class _List:
    """The content of the file.

    Attributes:
        key: the key of the hashes.
        times: the time of erasure in epoch seconds, by hash.
        barred: the hashes of barred names.
    """

    key: str = ""
    times: dict[str, float] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()


class Erased:
    """The list of erased studies. Safe for several threads and processes; a query costs one `stat` of the file.

    Args:
        work: the work folder of the store.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._file = work.path / _FILE
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int, int] | None, _List] = (None, _List())
        self._barred: Kept[set[str]] = Kept()

    def since(self, study: str) -> float:
        """Returns the time when a study was erased, in epoch seconds; minus infinity if it never was.

        Raises:
            StorageError: the list cannot be read.
        """
        known = self._read()
        return known.times.get(_hash(known, study), float("-inf")) if known.times else float("-inf")

    def just_now(self, study: str) -> bool:
        """Returns whether a study was erased in the last minute, so that work on it that began before must not be recorded.

        Raises:
            StorageError: the list cannot be read.
        """
        return abs(time.time() - self.since(study)) < _JUST_SECONDS

    def times(self) -> Mapping[str, float]:
        """Returns the times of all erasures in epoch seconds, by keyed hash of the study's name.

        Raises:
            StorageError: the list cannot be read.
        """
        return self._read().times

    def bars(self, study: str) -> bool:
        """Returns whether a study must not be added again.

        Raises:
            StorageError: the list cannot be read.
        """
        known = self._read()
        return bool(known.barred) and _hash(known, study) in known.barred

    def barred(self, studies: Collection[str]) -> set[str]:
        """Returns those of some studies that must not be added again; the same object for the same list and the same studies.

        Args:
            studies: the studies; nobody changes this object afterwards.

        Raises:
            StorageError: the list cannot be read.
        """
        known = self._read()
        if not known.barred:
            return set()
        return self._barred.of((known, studies), lambda: {study for study in studies if _hash(known, study) in known.barred})

    def check(self, study: str) -> None:
        """Checks that a study may be added.

        Raises:
            StorageError: the study was erased and is barred, or the list cannot be read.
        """
        if self.bars(study):
            raise StorageError(
                "the study", "was erased and is not accepted again.", "To allow it, run medsam2-atlas studies readmit."
            )

    def add(self, study: str, barred: bool) -> None:
        """Adds a name. A later call for the same name replaces its entry.

        Args:
            study: the name.
            barred: whether the study must not be added again.

        Raises:
            OSError, StorageError: the list cannot be read or written.
        """
        known = self._read()
        known = known if known.key else _List(secrets.token_hex(32))
        name = _hash(known, study)
        both = known.barred | {name} if barred else known.barred - {name}
        self._write(_List(known.key, {**known.times, name: time.time()}, both))

    def readmit(self, study: str) -> bool:
        """Allows a barred study to be added again; returns whether it was barred.

        Raises:
            OSError, StorageError: the list cannot be read or written.
        """
        known = self._read()
        if not self.bars(study):
            return False
        self._write(_List(known.key, known.times, known.barred - {_hash(known, study)}))
        return True

    def _read(self) -> _List:
        try:
            state = self._file.stat()
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
            with self._lock:
                if self._known[0] != stamp:
                    self._known = (stamp, _parsed(json.loads(text_of(self._file))))
                return self._known[1]
        except (FileNotFoundError, NotADirectoryError):
            return _List()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                self._file, f"cannot be read ({error}), so erased studies might be added again.", "Restore it from a backup."
            ) from error

    def _write(self, content: _List) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        studies = {name: {"at": at, "barred": name in content.barred} for name, at in sorted(content.times.items())}
        with temporary(self._file.parent, ".json") as part:
            write_safely(part, json.dumps({"key": content.key, "studies": studies}, indent=1) + "\n")
            os.replace(part, self._file)
        flush(self._file.parent)


def _parsed(content: dict[str, Any]) -> _List:
    studies = dict(content["studies"])
    times = {str(name): float(entry["at"]) for name, entry in studies.items()}
    return _List(str(content["key"]), times, frozenset(str(name) for name, entry in studies.items() if entry["barred"]))


def _hash(known: _List, study: str) -> str:
    return hmac.new(known.key.encode(), study.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
