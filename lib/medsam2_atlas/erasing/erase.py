"""Erases all stored data of a study. An erasure that a crash interrupts is completed later.

A plan is written first. From then on the study counts as erased: the steps can be repeated any number of times, and the next
erasure and the next start of a server complete all remaining plans. The last steps write the line in the audit log and remove
the plan, which contains the study's name.

Lock order: the training's claim, the folder's lock, the locks of databases. Nothing is erased during a training, because it may
have the study in memory.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.archive import Place
from medsam2_atlas.archive.journal import forget
from medsam2_atlas.audit.log import record_command
from medsam2_atlas.base.errors import AtlasError, InputError, NotFoundError, StorageError
from medsam2_atlas.base.files import remove_folder, text_of
from medsam2_atlas.base.resource import state_folder
from medsam2_atlas.base.scratch import sweep_leftovers
from medsam2_atlas.erasing.atlases import erase_reference, reference_names, versions_with
from medsam2_atlas.erasing.belongings import Belongings, check_name, find_belongings, studies_of
from medsam2_atlas.erasing.contents import erase_assignment, erase_from_reports, erase_rows, trained_on
from medsam2_atlas.erasing.mentions import mentions, mentions_name
from medsam2_atlas.erasing.work import no_work_runs
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.places import find_atlas
from medsam2_atlas.storage import WORK_FOLDER, Erased, WorkFolder, flush
from medsam2_atlas.storage.safely import temporary, write_safely

log = logging.getLogger(__name__)

_FOLDER = "erasing"


@dataclass(frozen=True)
class Erasure:
    """The result of an erasure, or of its preview.

    Attributes:
        paths: the erased files and folders.
        atlas: the erased versions of the atlas, which contained the study.
        not_erased: sentences about data that is not erased, with the remedy.
        rebuild: whether the atlas must be built again.
    """

    paths: list[Path]
    atlas: list[Path]
    not_erased: list[str]
    rebuild: bool = False


@dataclass(frozen=True)
class _Plan:
    """The plan to erase a study.

    Attributes:
        study: the name of the study.
        reason: the reason for the audit log.
        checksums: see `Belongings`; recorded, since they cannot be found after the study's versions are erased.
        final: see `Belongings`; recorded for the same reason.
    """

    study: str
    reason: str
    checksums: list[str]
    final: bool


def preview(place: Place, study: str) -> Erasure:
    """Returns the expected result of `erase`; changes nothing.

    Raises:
        InputError: the text is not the name of a study.
        NotFoundError: there is no data of such a study.
    """
    found, atlas = _found(place, check_name(study))
    return Erasure([*found.paths, *found.shared], atlas, _not_erased(place, study, found))


def erase(place: Place, study: str, reason: str) -> Erasure:
    """Erases all stored data of a study, and writes one line to the audit log.

    Args:
        place: the place of the studies.
        study: the name of the study, or the UID of a series of a PACS.
        reason: the reason for the audit log. It must not contain the name.

    Raises:
        InputError: the text is not the name of a study, or the reason contains it.
        NotFoundError: there is no data of such a study.
        ConflictError: a training or another work process is running.
        StorageError: a file cannot be erased; the next call resumes.
    """
    check_name(study)
    if not reason.strip() or mentions_name(reason, study):
        raise InputError(
            "reason", "is empty, or contains the study's name.", "State the request: the reason is written to the audit log."
        )
    finish_erasures(place)
    with no_work_runs(place.work):
        found, atlas = _found(place, study)
        not_erased = _not_erased(place, study, found)
        plan = _Plan(study, reason, sorted(found.checksums), found.final)
        file = _write(place, plan)
        rebuild = _carry_out(place, plan, file)
    for path in mentions(place.root, study, studies_of(place)):  # the root contains `place.work`
        not_erased.append(f"{path} still contains the name. Check it, and remove it if it belongs to the patient.")
    return Erasure([*found.paths, *found.shared], atlas, not_erased, rebuild)


def finish_erasures(place: Place) -> int:
    """Completes interrupted erasures; returns their number.

    Raises:
        ConflictError: a training or another work process is running.
        StorageError: a file cannot be erased.
    """
    files = sorted(_plans(place).glob("*.json"))
    if files:
        with no_work_runs(place.work):
            for file in files:
                try:
                    plan = _Plan(**json.loads(text_of(file)))
                    check_name(plan.study)
                except FileNotFoundError:  # another process has completed it
                    continue
                except (OSError, ValueError, TypeError) as error:
                    raise StorageError(
                        file, f"is an unreadable plan to erase a study ({error}).", "Remove it, and erase the study again."
                    ) from error
                _carry_out(place, plan, file)
                log.warning("an interrupted erasure has been completed")
    return len(files)


def readmit(place: Place, study: str) -> None:
    """Allows a server to fetch an erased series of a PACS again.

    Args:
        place: the place of the studies.
        study: the UID of the series.

    Raises:
        NotFoundError: the series is not barred.
    """
    with place.locked():
        if not Erased(WorkFolder(place.studies / WORK_FOLDER)).readmit(study):
            raise NotFoundError(
                "the study", "was not erased here, or has already been readmitted.", "Check the UID if it is still refused."
            )
    record_command(WorkFolder(place.work), "study.readmit", study=study)


def _carry_out(place: Place, plan: _Plan, file: Path) -> bool:
    """Carries out a plan; returns whether the atlas must be built again."""
    study, store = plan.study, place.studies / WORK_FOLDER
    try:
        with _naming_errors():
            with place.locked():
                Erased(WorkFolder(store)).add(study, barred=place.pacs)
                found = find_belongings(place, study)
                forget(place.work, [place.relative(file) for path in found.paths for file in _files(path)])
                for path in found.paths:
                    _remove(path, path.parent)
                for checksum in plan.checksums:
                    (store / "fingerprints" / f"{checksum}.json").unlink(missing_ok=True)
                erase_rows(place, study, {*plan.checksums, *found.checksums})
                erase_assignment(place, study)
            RegistrationCache(place.work / "registrations").forget()
            for path in found.shared:
                _empty(path)
            rebuild = erase_reference(place.work / "atlas", study, plan.final)
            erase_from_reports(place, study)
            for folder in {place.root, place.studies / "labels", place.work, store}:
                sweep_leftovers(folder)
    finally:
        if place.studies.is_dir():
            flush(place.studies)
    record_command(WorkFolder(place.work), "study.erase", study=study, details={"reason": plan.reason})
    file.unlink(missing_ok=True)
    return rebuild


@contextmanager
def _naming_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            "the study",
            f"is not erased completely yet ({error}).",
            "Erase it again as the server's user; if the disk is full, free some space first.",
        ) from error


def _found(place: Place, study: str) -> tuple[Belongings, list[Path]]:
    found = find_belongings(place, study)
    atlas = versions_with(place.work / "atlas", study, found.final)
    known = found.paths or trained_on(place.work, study) or _listed(place, study)
    if not known and not any(study in reference_names(path) for path in atlas):
        raise NotFoundError(repr(study[:80]), "is unknown here: there is no data of it.", "Check its name.")
    return found, atlas


def _listed(place: Place, study: str) -> bool:
    """Returns whether the stored list of a PACS contains a series, which may never have been fetched."""
    try:
        entries: list[dict[str, Any]] = json.loads(text_of(place.work / "series.json"))
        return place.pacs and any(study in entry.values() for entry in entries)
    except (OSError, ValueError, AttributeError):
        return False


def _not_erased(place: Place, study: str, found: Belongings) -> list[str]:
    not_erased = list(found.not_erased)
    for folder in trained_on(place.work, study):
        not_erased.append(f"{folder.name} was trained on the study, which cannot be undone. Remove {folder}, and train again.")
    with suppress(AtlasError):
        base = find_atlas()
        if study in reference_names(base):
            not_erased.append(f"The atlas {base} has a reference of that name. Build it again without this reference.")
    if place.pacs:
        not_erased.append("The PACS still has the series. It is not fetched again until `studies readmit` allows it.")
    for series, instance in sorted(found.segmentations):
        not_erased.append(f"The segmentation {instance} of the series {series} was sent to the PACS. Remove it there.")
    for file in mentions(state_folder(), study):
        not_erased.append(f"{file} contains the name. Remove it, or wait until log rotation removes it.")
    not_erased.append("Backups, exports, downloads and atlases built elsewhere may contain the study: see docs/records.md.")
    return not_erased


def _plans(place: Place) -> Path:
    return place.studies / WORK_FOLDER / _FOLDER


def _write(place: Place, plan: _Plan) -> Path:
    folder = _plans(place)
    with _naming_errors():
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{os.urandom(8).hex()}.json"
        with temporary(folder, ".json") as part:
            write_safely(part, json.dumps(vars(plan), ensure_ascii=False))
            os.replace(part, file)
        flush(folder)
    return file


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if not file.is_dir()] if path.is_dir() and not path.is_symlink() else [path]


def _remove(path: Path, below: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_folder(path, below)
    else:
        path.unlink(missing_ok=True)


def _empty(path: Path) -> None:
    """Removes a file, or all files in a folder. The folder stays, since other processes may write into it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        _remove(entry, path)
