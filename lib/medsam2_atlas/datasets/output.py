"""Opens the output folder of a data set. It refuses files that an earlier run did not write, and removes outdated cases."""

from __future__ import annotations

import os
from pathlib import Path

from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.scratch import sweep_leftovers
from medsam2_atlas.datasets.record import FOLDERS, RECORD, CaseRecord, Dataset, paths_of, read_record
from medsam2_atlas.datasets.roles import Plan, Role

_KINDS = ("images", "labels")


def check_places(source: Path, out: Path) -> None:
    """Checks that the output does not mix with the download.

    Args:
        source: the folder of the download.
        out: the output folder; it need not exist.

    Raises:
        InputError: the output is the folder of the download, lies in it, or contains it.
    """
    inner, outer = os.path.realpath(out), os.path.realpath(source)
    if inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep):
        raise InputError(out, "lies in the folder of the download, which is never changed.", "Name a folder outside of it.")
    if outer.startswith(inner.rstrip(os.sep) + os.sep):
        raise InputError(out, "contains the folder of the download.", "Name a new folder.")


def opened(out: Path, plan: Plan, base: Dataset) -> dict[tuple[Role, str], CaseRecord]:
    """Opens the output folder, or creates it; returns the cases of an earlier run that can be kept, by role and name.

    Files of cases that are no longer in the plan are removed, so that no case stays in two roles.

    Args:
        out: the output folder.
        plan: the cases of this run.
        base: the record of this run, without cases.

    Raises:
        StorageError: the folder contains files that an earlier run with this layout did not write.
    """
    earlier = read_record(out / RECORD)
    if earlier is not None and earlier.layout != base.layout:
        raise StorageError(out, f"contains the data set {earlier.layout}, not {base.layout}.", "Name another folder.")
    old = {(case.role, case.name): case for case in earlier.cases} if earlier is not None else {}
    planned = {(role, case.name) for role, case in plan.cases}
    if earlier is None and os.path.lexists(out / RECORD):
        raise StorageError(out / RECORD, "is a file of another program.", "Name a new folder.")
    if strange := _strangers(out, {*old, *planned} if earlier is not None else set()):
        raise StorageError(out, f"contains {strange}, which is not part of this data set.", "Name a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    for folder in (out, *(out / name / kind for name in FOLDERS.values() for kind in _KINDS)):
        sweep_leftovers(folder)
    for role, name in old.keys() - planned:
        remove_case(out, role, name)
    if earlier is None or any(getattr(earlier, key) != getattr(base, key) for key in ("version", "layout_sha256", "hu")):
        return {}
    return {key: record for key, record in old.items() if key in planned}


def _strangers(out: Path, expected: set[tuple[Role, str]]) -> str:
    """Returns the first entry of the output folder that an earlier run cannot have written; empty if there is none."""
    files = {file for role, name in expected for file in paths_of(out, role, name)}
    folders = {out / name for name in FOLDERS.values()} | {out / name / kind for name in FOLDERS.values() for kind in _KINDS}
    for folder in (out, *sorted(folders)):
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            allowed = (entry in folders and entry.is_dir()) or entry in files or entry == out / RECORD
            if entry.is_symlink() or not (allowed or entry.name.startswith(".")):
                return entry.relative_to(out).as_posix()
    return ""


def are_there(out: Path, record: CaseRecord) -> bool:
    """Returns whether the output folder contains both files of a case."""
    return all(path.is_file() and not path.is_symlink() for path in record.paths(out))


def remove_case(out: Path, role: Role, name: str) -> None:
    """Removes the files of a case from the output folder, if they exist."""
    for path in paths_of(out, role, name):
        path.unlink(missing_ok=True)
