"""Assignments: which person should annotate which study next. A reviewer makes and removes them.

`assignments.json` in the work folder contains all of them, because a list of all cases needs all, and because a series of a
PACS can be assigned before it is fetched. An assignment is advice: it never keeps anybody from saving a label map. An entry
that cannot be read is left out, and does not hide the others.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.base.files import text_of
from medsam2_atlas.storage.erased import Erased
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.lineage import now
from medsam2_atlas.storage.lock import FolderLock
from medsam2_atlas.storage.rows import stamp_of
from medsam2_atlas.storage.safely import flush_names, make_folder, temporary, write_safely

log = logging.getLogger(__name__)

ASSIGNMENTS = "assignments.json"
_INVALID = (ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Assignment:
    """The assignment of a study.

    Attributes:
        person: name of the person who should annotate it.
        by: name of the reviewer who assigned it.
        at: the time, ISO 8601, UTC.
    """

    person: str
    by: str
    at: str


class Assignments:
    """The assignments of a set of studies. Safe for several processes and threads.

    Concurrency contract. Changes are made under the lock of the studies. A reader needs no lock, because the file is replaced
    in one step; `_guard` protects the content in memory, which is read again when the file has changed.

    Args:
        work: the work folder of the studies.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._file, self._lock = work.path / ASSIGNMENTS, FolderLock(work.path)
        self._guard, self._stamp, self._erased = threading.Lock(), "", Erased(work)
        self._known: dict[str, Assignment] = {}

    def all(self) -> dict[str, Assignment]:
        """Returns all assignments by study. If the file cannot be read, this is logged, and there are none."""
        with self._guard:
            try:
                stamp = stamp_of(self._file)
                if stamp != self._stamp:
                    self._known = _read(self._file) if stamp else {}
                    self._stamp = stamp
            except (OSError, *_INVALID) as error:
                log.error("%s cannot be read (%s): no case is assigned", self._file, error)
                self._known, self._stamp = {}, _stamp_or_empty(self._file)
            return dict(self._known)

    def of(self, study: str) -> Assignment | None:
        """Returns the assignment of a study; None if it is not assigned."""
        return self.all().get(study)

    def assign(self, study: str, person: str, by: str) -> Assignment | None:
        """Assigns a study to a person; returns the assignment, or None if it was removed.

        Args:
            study: name of the study, which exists.
            person: name of the person; an empty name removes the assignment.
            by: name of the reviewer.

        Raises:
            NotFoundError: the study was just erased.
            StorageError: the assignment cannot be written; nothing has changed.
        """
        try:
            make_folder(self._file.parent)
            with self._lock.held():
                if self._erased.just_now(study):  # an erasure holds the same lock, and must not be undone
                    raise NotFoundError(repr(study[:80]), "was just erased.", "Reload the list of studies.")
                kept = self._kept()
                found = Assignment(person, by, now()) if person else None
                if found is None and study not in kept:
                    return None
                changed = {name: one for name, one in kept.items() if name != study} | ({study: found} if found else {})
                _write(changed, self._file)
        except OSError as error:
            raise StorageError(
                self._file, f"cannot be written ({error}).", "Nothing was changed. Check the disk and its permissions."
            ) from error
        return found

    def _kept(self) -> dict[str, Assignment]:
        """Returns the stored assignments before a change. A damaged file is moved away, so that it is not overwritten."""
        try:
            found, wrong = _parsed(self._file)
        except FileNotFoundError:
            return {}
        except _INVALID as error:
            found, wrong = {}, str(error)
        if wrong:
            aside = self._file.with_name(f"{self._file.name}.damaged")
            os.replace(self._file, aside)
            log.error("%s cannot be read (%s); it was moved to %s", self._file, wrong, aside)
        return found


def _read(file: Path) -> dict[str, Assignment]:
    """Returns the assignments in a file; logs entries that are not valid."""
    found, wrong = _parsed(file)
    if wrong:
        log.error("%s cannot be read completely (%s): some cases are not assigned", file, wrong)
    return found


def _parsed(file: Path) -> tuple[dict[str, Assignment], str]:
    """Returns the assignments in a file, and the problem of the entries that are not valid; empty if all are.

    Raises:
        OSError: the file cannot be read.
        ValueError, AttributeError, RecursionError: it contains no JSON object.
    """
    found, wrong = dict[str, Assignment](), 0
    for study, one in json.loads(text_of(file)).items():
        try:
            found[study] = Assignment(str(one["person"]), str(one["by"]), str(one["at"]))
        except (KeyError, TypeError):
            wrong += 1
    return found, f"{wrong} invalid entries" if wrong else ""


def _write(assignments: Mapping[str, Assignment], file: Path) -> None:
    text = json.dumps({study: asdict(one) for study, one in sorted(assignments.items())}, indent=1, ensure_ascii=False)
    with temporary(file.parent, ".json") as part:
        write_safely(part, text + "\n")
        os.replace(part, file)
    flush_names(file.parent)


def _stamp_or_empty(file: Path) -> str:
    """Returns the stamp of a file; empty if its state cannot be read."""
    try:
        return stamp_of(file)
    except OSError:
        return ""
