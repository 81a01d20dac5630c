"""Erases a study from files that contain several studies: databases and JSON."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from medsam2_atlas.archive import Place
from medsam2_atlas.base.files import replacing, text_of, write_json
from medsam2_atlas.dicom.uids import uid_folder_name
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import CLAIMS, FIGURES, WORK_FOLDER
from medsam2_atlas.storage.assignments import ASSIGNMENTS

log = logging.getLogger(__name__)

_Statement = tuple[str, tuple[str, ...]]

_WAIT_SECONDS = 60.0
_LISTS = ("added", "kept", "removed", "excluded", "disagreeing", "train_cases", "validation_cases")
_TABLES = ("images", "labels", "problems", "twins", "doubled")
_KEYED = ("refused", "skipped", "studies")


def erase_rows(place: Place, study: str, checksums: Iterable[str]) -> None:
    """Erases a study's rows from the indexes and the measures. Overwrites them, and removes the free pages of the databases.

    Args:
        place: the place of the studies.
        study: the name of the study.
        checksums: the SHA-256 of its images, whose comparisons are erased too.

    Raises:
        sqlite3.Error: a database stays locked, or the disk is full.
    """
    of_study: list[_Statement] = [(f"DELETE FROM {table} WHERE study = ?", (study,)) for table in _TABLES]
    alike: list[_Statement] = [
        ("DELETE FROM alike WHERE former = ? OR now = ?", (checksum, checksum)) for checksum in sorted(set(checksums))
    ]
    store = place.studies / WORK_FOLDER
    for file in store.glob("studies*.sqlite"):
        _erase(file, of_study + alike)
    _erase(store / CLAIMS, [(f"DELETE FROM {table} WHERE study = ?", (study,)) for table in ("opened", "work")])
    _erase(store / FIGURES, [(f"DELETE FROM {table} WHERE study = ?", (study,)) for table in ("versions", "studies")])
    _erase(place.work / "learning.sqlite", [("DELETE FROM measures WHERE study = ?", (study,))])


def erase_assignment(place: Place, study: str) -> None:
    """Erases the assignment of a study. The caller holds the lock of the studies, so that no other assignment is lost.

    Raises:
        OSError, StorageError: the file cannot be written.
    """
    file = place.studies / WORK_FOLDER / ASSIGNMENTS
    _edit(file, lambda content: {name: one for name, one in content.items() if name != study})


def erase_from_reports(place: Place, study: str) -> None:
    """Erases a study's entries from reports, lists and MONAI Label's own index.

    Adds 1 to the number of erased cases in the statistics of each U-Net that was trained on it.

    Raises:
        OSError, StorageError: a file cannot be written.
    """
    work, store = place.work, place.studies / WORK_FOLDER
    for file in (work / "atlas" / "stats.json", *(work / "scores").glob("*.json")):
        _edit(file, lambda content: _without(content, study))
    for file in work.glob("*/stats.json"):
        if file.parent.name != "atlas":
            _edit(file, lambda content: _without(_with_note(content, study), study))
    _edit(work / "atlas" / "excluded.json", lambda content: [name for name in content if name != study])
    for file in {work / "unreadable.json", store / "unreadable.json"}:
        _edit(file, lambda content: {path: entry for path, entry in content.items() if not _of_study(Path(path), study)})
    _edit(work / "series.json", lambda content: [entry for entry in content if study not in entry.values()])
    for file in (work / "batch").glob("*/manifest.jsonl"):
        _without_lines(file, study)
    _edit(place.studies / "datastore_v2.json", lambda content: _unlisted(content, study), needed=True)


def _without_lines(file: Path, study: str) -> None:
    """Removes a study's lines from the manifest of a batch, and lines that cannot be read, in one step."""
    kept = []
    for line in text_of(file).splitlines():
        try:
            entry = json.loads(line)
            names = {entry.get("case"), entry.get("output", {}).get("study")}
            path = Path(str(entry.get("id", "")))
        except (ValueError, AttributeError, TypeError):
            continue
        if study not in names and not _of_study(path, study):
            kept.append(line + "\n")
    with replacing(file) as part:
        part.write_text("".join(kept), encoding="utf-8")


def trained_on(work: Path, study: str) -> list[Path]:
    """Returns the folders of U-Nets whose training or validation used a study."""
    found = []
    for file in sorted(work.glob("*/stats.json")):
        try:
            content = json.loads(text_of(file))
            if study in [*content.get("train_cases", ()), *content.get("validation_cases", ())]:
                found.append(file.parent)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return found


def _erase(file: Path, statements: Iterable[_Statement]) -> None:
    if not file.is_file():
        return
    try:
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA secure_delete=ON")
            database.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                try:
                    database.execute(statement, values)
                except sqlite3.OperationalError as error:  # a file of an earlier release lacks tables
                    if "no such" not in str(error):
                        raise
            database.execute("COMMIT")
            database.execute("VACUUM")
    except sqlite3.OperationalError:  # locked, or a full disk
        raise
    except sqlite3.DatabaseError as error:
        log.warning("%s is damaged (%s); it is removed, and the program recreates it from the files", file, error)
        file.unlink(missing_ok=True)


def _edit(file: Path, change: Callable[[Any], Any], *, needed: bool = False) -> None:
    """Changes the content of a JSON file. A file that cannot be read is removed, unless it is needed."""
    if not file.is_file():
        return
    try:
        content = json.loads(text_of(file))
        changed = change(content)
    except FileNotFoundError:
        return
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be read (%s)%s", file, error, "" if needed else "; it is removed")
        if not needed:
            file.unlink(missing_ok=True)
        return
    if changed != content:
        write_json(changed, file)


def _without(content: dict[str, Any], study: str) -> dict[str, Any]:
    """Returns a report without a study's entries."""
    kept = dict(content)
    for key in _LISTS:
        if isinstance(kept.get(key), list):
            kept[key] = [name for name in kept[key] if name != study]
    for key in _KEYED:
        if isinstance(kept.get(key), dict):
            kept[key] = {name: value for name, value in kept[key].items() if name != study}
    hu = kept.get("hu")
    if isinstance(hu, dict) and isinstance(hu.get("offsets"), dict):
        kept["hu"] = {**hu, "offsets": {name: value for name, value in hu["offsets"].items() if name != study}}
    return kept


def _with_note(content: dict[str, Any], study: str) -> dict[str, Any]:
    """Returns the statistics of a training, with the number of its erased cases increased if it has used the study."""
    used = study in [*content.get("train_cases", ()), *content.get("validation_cases", ())]
    return {**content, "erased_cases": content.get("erased_cases", 0) + 1} if used else content


def _unlisted(content: dict[str, Any], study: str) -> dict[str, Any]:
    return {**content, "objects": {name: entry for name, entry in content["objects"].items() if name != study}}


def _of_study(path: Path, study: str) -> bool:
    """Returns whether a path belongs to a file or folder of a study."""
    suffix = suffix_in(path.name, labels=True)
    named = {study, uid_folder_name(study)} & {*path.parts}
    return bool(named) or (bool(suffix) and path.name[: -len(suffix)] == study)
