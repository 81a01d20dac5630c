"""Restores a snapshot into an empty place.

Files are collected and checked in a temporary folder of the place, and moved to their final paths at the end. Until then the
place appears empty. A stopped restore resumes with the files that it has already copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.archive.locking import locked_folder
from medsam2_atlas.archive.manifest import Entry, Snapshot
from medsam2_atlas.archive.place import RESTORING, Place
from medsam2_atlas.archive.publishing import make_folders
from medsam2_atlas.archive.vault import Vault
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.base.files import opened, remove_folder, sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.storage import WORK_FOLDER, flush

_MARK = "snapshot.json"
_FILES = "files"
_MOVING = "moving.json"
"""The list of damaged files. It is written after all files have been copied; after that, they only have to be moved."""


@dataclass(frozen=True)
class Restored:
    """The result of a restore.

    Attributes:
        snapshot: the restored snapshot.
        damaged: why files were not restored, by path: the backup does not contain them intact.
    """

    snapshot: Snapshot
    damaged: dict[str, str]


def restore(dest: Path, place: Place, *, when: str = "", progress: Progress = silent) -> Restored:
    """Restores a snapshot.

    Args:
        dest: the folder of the backup.
        place: the place to restore: an empty or missing folder; for a PACS, its work folder on this machine.
        when: the name of the snapshot, or the beginning of its name; the newest one by default.
        progress: called with the fraction of copied bytes.

    Raises:
        InputError: the backup or snapshot does not exist; or `place` is a folder instead of a PACS' URL, or the reverse.
        ConflictError: the place is not empty.
        StorageError: the list of the snapshot is damaged, or the place cannot be written.
    """
    vault = Vault.existing(dest)
    with vault.locked(shared=True):
        snapshot = vault.snapshot(when)
        _check_kind(dest, snapshot, place)
        if vault.path == place.root or vault.path in place.root.resolve().parents:
            raise InputError(place.root, "is inside the backup.", "Name a folder outside of it.")
        try:
            staging = _staging(place, vault, snapshot)
            with locked_folder(staging):
                if not (staging / _MOVING).exists():
                    vault.write(staging / _MOVING, _collect(vault, snapshot, staging / _FILES, progress))
                damaged = json.loads((staging / _MOVING).read_text(encoding="utf-8"))
                _move_to_place(staging, place)
        except OSError as error:
            problem = f"cannot be restored ({error.strerror or error})."
            remedy = "Check its permissions and free space, then run the same restore again to resume."
            raise StorageError(place.root, problem, remedy) from error
    return Restored(snapshot, damaged)


def _check_kind(dest: Path, snapshot: Snapshot, place: Place) -> None:
    if snapshot.pacs and not place.pacs:
        remedy = f"Name the server's URL, such as {snapshot.studies}."
        raise InputError(dest, "contains the work folder of a PACS server.", remedy)
    if place.pacs and not snapshot.pacs:
        raise InputError(
            dest, "contains a studies folder, not the work folder of a PACS server.", "Name a folder instead of the URL."
        )


def _staging(place: Place, vault: Vault, snapshot: Snapshot) -> Path:
    """Returns the folder for the copied files: a new one if the place is empty, or that of the restore to resume."""
    staging = place.root / RESTORING
    if staging.is_symlink():
        raise ConflictError(staging, "is a symbolic link.", "Remove it.")
    mark = {"key": vault.identity()[0], "snapshot": snapshot.name}
    if place.root.exists() and not place.root.is_dir():
        raise InputError(place.root, "is a file.", "Name a folder.")
    place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    existing = [path.name for path in place.root.iterdir() if path.name != "lost+found"]
    if RESTORING in existing:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((staging / _MARK).read_text(encoding="utf-8")) == mark:
                return staging
        if existing == [RESTORING] and not (staging / _FILES).exists():  # the restore was stopped before it copied a file
            return _marked(staging, vault, mark)
        problem = "contains an incomplete restore of another snapshot."
        raise ConflictError(place.root, problem, f"Remove {staging}, or restore that snapshot.")
    if existing:
        remedy = "Restore into an empty place, then compare or copy the files that you need."
        raise ConflictError(place.root, "is not empty.", remedy)
    return _marked(staging, vault, mark)


def _marked(staging: Path, vault: Vault, mark: dict[str, str]) -> Path:
    staging.mkdir(mode=0o700, exist_ok=True)
    vault.write(staging / _MARK, mark)
    (staging / _FILES).mkdir(mode=0o700, exist_ok=True)
    return staging


def _collect(vault: Vault, snapshot: Snapshot, files: Path, progress: Progress) -> dict[str, str]:
    """Copies the files that have not been copied yet; returns why files of the backup are not intact, by path."""
    part = files.with_name("part")  # beside the files, so that a killed restore leaves no temporary file among them
    part.unlink(missing_ok=True)
    files.mkdir(mode=0o700, exist_ok=True)  # a stopped restore may not have created it
    damaged, done, total, made = dict[str, str](), 0, snapshot.size or 1, set[Path]()
    for entry in snapshot.entries.values():
        target = files / entry.path
        if target.parent not in made:
            make_folders(target.parent, files)
            made.add(target.parent)
        if not _is_copied(target, entry):
            problem = _copy(vault, entry, part, target)
            if problem:
                damaged[entry.path] = problem
        done += entry.size
        progress("restoring", done / total)
    for folder in made:
        flush(folder)
    return damaged


def _is_copied(target: Path, entry: Entry) -> bool:
    """Returns whether a stopped restore has already copied a file."""
    return target.is_file() and target.stat().st_size == entry.size and sha256(target) == entry.sha256


def _copy(vault: Vault, entry: Entry, part: Path, target: Path) -> str:
    """Copies a content, first to a temporary file; returns why the backup's content is not intact, or an empty string.

    Raises:
        OSError: the copy cannot be written.
    """
    try:
        try:
            checksum = _written(vault, entry, part)
        except _UnreadableError as error:
            return f"cannot be read from the backup ({error})."
        if checksum != entry.sha256:
            return "is damaged in the backup: its checksum is wrong."
        os.utime(part, ns=(entry.mtime_ns, entry.mtime_ns))
        part.chmod((entry.mode & 0o666) | 0o600)
        flush(part)
        os.replace(part, target)
        return ""
    finally:
        part.unlink(missing_ok=True)


class _UnreadableError(Exception):
    """The backup's disk has failed, not the disk of the restored place."""


def _written(vault: Vault, entry: Entry, part: Path) -> str:
    """Copies a content; returns its checksum. Reads no more than the recorded size: a grown file must not fill the disk.

    Raises:
        _UnreadableError: the content is missing, cannot be read, or is too large.
        OSError: the copy cannot be written.
    """
    digest, left = hashlib.sha256(), entry.size
    with part.open("xb") as target, contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(opened(vault.content(entry.sha256)))
        except OSError as error:
            raise _UnreadableError(error.strerror or str(error)) from error
        while True:
            try:
                block = source.read(min(1 << 20, left + 1))
            except OSError as error:
                raise _UnreadableError(error.strerror or str(error)) from error
            if not block:
                return digest.hexdigest()
            if len(block) > left:
                raise _UnreadableError("it is larger than recorded")
            left -= len(block)
            digest.update(block)
            target.write(block)


def _move_to_place(staging: Path, place: Place) -> None:
    """Moves all files to their final paths: records first, images last, since the image makes a study exist."""
    first = [WORK_FOLDER, "store", "labels"]
    names = sorted((path.name for path in (staging / _FILES).iterdir()), key=lambda name: (name not in first, name))
    for name in names:
        target = place.root / name
        if target.exists() or target.is_symlink():
            raise ConflictError(target, "was created during the restore.", "Move it away, and run the restore again.")
        os.replace(staging / _FILES / name, target)
    flush(place.root)
    remove_folder(staging, place.root)
