"""Reads the audit log: finds requested lines, and checks whether lines were changed or removed.

Each line's `prev` is a digest of the line before it, so the next line reveals a change. A person with write access to the files
can still recompute all digests from some line on, or remove the last lines. To detect that, compare `Check.last` with a copy
on another machine, or send the lines there.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.audit.files import CURRENT, FIRST, FOLDER, closed_files, digest_of
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import opened
from medsam2_atlas.base.study_hash import StudyNames

MAX_LINES = 100_000
_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,3})?)?)?)?)?)?Z?")
"""The beginning of a time, as the lines of the log have it."""
_LINE_BYTES = 1 << 20
_MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class LineQuery:
    """A query for lines of the audit log. An empty text does not restrict the lines.

    Attributes:
        since: the earliest time, as the beginning of an ISO 8601 UTC time such as `2026-11-26` or `2026-11-26T08:30`.
        study: the name of a study, or its hash.
        who: the name or id of a person.
        action: an action, or the first part of several actions, such as `label`.
        limit: the max number of lines; the newest are returned.
    """

    since: str = ""
    study: str = ""
    who: str = ""
    action: str = ""
    limit: int = 1000

    def __post_init__(self) -> None:
        """Checks the time, because a text such as `yesterday` would match no line.

        Raises:
            InputError: `since` is not the beginning of a time.
        """
        if self.since and not _TIME.fullmatch(self.since):
            problem, remedy = "is not the beginning of a UTC time.", "Write it as 2026-11-26 or 2026-11-26T08:30."
            raise InputError(repr(self.since[:80]), problem, remedy)


@dataclass
class Check:
    """The result of a check of the audit log.

    Attributes:
        lines: the number of lines.
        problems: sentences about changed, removed or damaged lines.
        last: the digest of the last line. A copy of it on another machine proves that all lines up to it are unchanged.
        complete: whether the log still contains its first line; if not, expired files may have been removed.
    """

    lines: int = 0
    problems: list[str] = field(default_factory=list)
    last: str = FIRST
    complete: bool = True


def files_of(work_folder: Path) -> list[Path]:
    """Returns the files of the audit log of a work folder, the oldest first."""
    folder = work_folder / FOLDER
    current = folder / CURRENT
    return [*closed_files(folder), *([current] if current.is_file() else [])]


def lines(work_folder: Path, query: LineQuery) -> list[dict[str, Any]]:
    """Returns the lines of the audit log that match a query, the newest last. Damaged lines are left out; `check` finds them.

    Args:
        work_folder: the work folder of the studies.
        query: the query.
    """
    fits = _filter(work_folder, query)
    found = list[dict[str, Any]]()
    for file in reversed(files_of(work_folder)):
        missing = min(query.limit, MAX_LINES) - len(found)
        if missing <= 0:
            break
        newest = deque((entry for entry in map(_parsed, _raw_lines(file)) if entry and fits(entry)), missing)
        found = [*newest, *found]
        first = next(filter(None, map(_parsed, _raw_lines(file))), None)
        if query.since and first and str(first.get("at", "")) < query.since:
            break  # older files contain older lines only
    return found


def check(work_folder: Path) -> Check:
    """Checks that no line was changed, removed or inserted.

    Args:
        work_folder: the work folder of the studies.
    """
    found = Check()
    for file in files_of(work_folder):
        for number, raw in enumerate(_raw_lines(file), 1):
            entry = _parsed(raw)
            previous = str(entry.get("prev", "")) if entry else ""
            if found.lines == 0 and entry:
                found.complete = previous == FIRST
            elif entry and previous != found.last:
                _add(found, f"{file.name}, line {number}: the line before it was changed or removed.")
            if not entry:
                _add(found, f"{file.name}, line {number}: is damaged.")
            found.lines += 1
            found.last = digest_of(raw)
    return found


def _add(found: Check, problem: str) -> None:
    if len(found.problems) < _MAX_PROBLEMS:
        found.problems.append(problem)


def _filter(work_folder: Path, query: LineQuery) -> Callable[[dict[str, Any]], bool]:
    studies = {query.study, StudyNames(work_folder).hashed(query.study)} if query.study else set[str]()

    def fits(entry: dict[str, Any]) -> bool:
        action = str(entry.get("action", ""))
        return (
            str(entry.get("at", "")) >= query.since
            and (not studies or entry.get("study") in studies)
            and (not query.who or query.who in (entry.get("who"), entry.get("who_id")))
            and (not query.action or action == query.action or action.startswith(f"{query.action}."))
        )

    return fits


def _raw_lines(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file without their line ends. Splits lines of more than 1 MiB."""
    try:
        with opened(file, follow=True) as stream:
            while line := stream.readline(_LINE_BYTES):
                yield line.rstrip(b"\n")
    except FileNotFoundError:  # the file has been renamed or removed meanwhile
        return


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
