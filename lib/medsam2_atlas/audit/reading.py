"""Reads the audit log: lines that somebody asks for, and whether lines were changed or removed.

Each line's `prev` is a digest of the line before it, so a change shows in the line after it. Somebody who may write to the
files can still compute all digests anew from some line on, or cut lines off the end: compare `Check.last` with a copy that was
kept elsewhere, or send the lines to another machine.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.audit.files import CURRENT, FIRST, FOLDER, closed_files, digest_of
from medsam2_atlas.base.files import opened
from medsam2_atlas.base.study_hash import StudyNames

MAX_LINES = 100_000
_LINE_BYTES = 1 << 20
_MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class Wanted:
    """Which lines somebody asks for; empty texts mean all.

    Attributes:
        since: earliest time, the beginning of an ISO 8601 UTC time such as `2026-11-26` or `2026-11-26T08:30`.
        study: name of a study, or its hash.
        who: name or id of a person.
        action: action, or the first part of actions, such as `label`.
        limit: max number of lines; the newest are kept.
    """

    since: str = ""
    study: str = ""
    who: str = ""
    action: str = ""
    limit: int = 1000


@dataclass
class Check:
    """What a check of the audit log has found.

    Attributes:
        lines: how many lines there are.
        problems: where lines were changed, removed or damaged.
        last: digest of the last line; a copy of it, kept elsewhere, proves that all lines up to it are unchanged.
        whole: whether the very first line is still there; older files may have been removed as their days were over.
    """

    lines: int = 0
    problems: list[str] = field(default_factory=list)
    last: str = FIRST
    whole: bool = True


def files_of(work_folder: Path) -> list[Path]:
    """Returns the files of the audit log of a work folder, the oldest first."""
    folder = work_folder / FOLDER
    current = folder / CURRENT
    return [*closed_files(folder), *([current] if current.is_file() else [])]


def lines(work_folder: Path, wanted: Wanted) -> list[dict[str, Any]]:
    """Returns lines of the audit log, the newest last. Lines that are damaged are left out; `check` finds them.

    Args:
        work_folder: `.medsam2_atlas` of the studies.
        wanted: which lines.
    """
    fits = _filter(work_folder, wanted)
    found = list[dict[str, Any]]()
    for file in reversed(files_of(work_folder)):
        missing = min(wanted.limit, MAX_LINES) - len(found)
        if missing <= 0:
            break
        newest = deque((entry for entry in map(_parsed, _raw_lines(file)) if entry and fits(entry)), missing)
        found = [*newest, *found]
        first = next(filter(None, map(_parsed, _raw_lines(file))), None)
        if wanted.since and first and str(first.get("at", "")) < wanted.since:
            break  # older files hold older lines only
    return found


def check(work_folder: Path) -> Check:
    """Checks that no line was changed, removed or put in between.

    Args:
        work_folder: `.medsam2_atlas` of the studies.
    """
    found = Check()
    for file in files_of(work_folder):
        for number, raw in enumerate(_raw_lines(file), 1):
            entry = _parsed(raw)
            previous = str(entry.get("prev", "")) if entry else ""
            if found.lines == 0 and entry:
                found.whole = previous == FIRST
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


def _filter(work_folder: Path, wanted: Wanted) -> Callable[[dict[str, Any]], bool]:
    studies = {wanted.study, StudyNames(work_folder).hashed(wanted.study)} if wanted.study else set[str]()

    def fits(entry: dict[str, Any]) -> bool:
        action = str(entry.get("action", ""))
        return (
            str(entry.get("at", "")) >= wanted.since
            and (not studies or entry.get("study") in studies)
            and (not wanted.who or wanted.who in (entry.get("who"), entry.get("who_id")))
            and (not wanted.action or action == wanted.action or action.startswith(f"{wanted.action}."))
        )

    return fits


def _raw_lines(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file without their ends; of lines that are much too long, pieces."""
    try:
        with opened(file, follow=True) as stream:
            while line := stream.readline(_LINE_BYTES):
                yield line.rstrip(b"\n")
    except FileNotFoundError:  # closed files get other names, and old ones are removed
        return


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
