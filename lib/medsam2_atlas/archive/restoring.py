"""Brings a snapshot back, into an empty place.

Files are collected in a folder beside their places, each checked before it gets its name, and take their places at the end: who
opens the place before finds nothing. A restore that was stopped goes on with the files that are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.archive.alone import alone_in
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
"""Written when all files are there, with those that are damaged; from then on they only take their places."""


@dataclass(frozen=True)
class Restored:
    """What a restore did. damaged: files that the backup does not hold as they were, with the reason; they are left out."""

    snapshot: Snapshot
    damaged: dict[str, str]


def restore(dest: Path, place: Place, *, when: str = "", progress: Progress = silent) -> Restored:
    """Restores a snapshot.

    Args:
        dest: folder of the backup.
        place: where it goes: a folder that is empty or does not exist; for a PACS, its work folder on this machine.
        when: name of the snapshot, or its beginning; the newest one by default.
        progress: called with the fraction of bytes.

    Raises:
        InputError: no such backup or snapshot; or a folder where a PACS' URL is needed, or the reverse.
        ConflictError: the place is not empty.
        StorageError: the list of the snapshot is damaged, or the place cannot be written to.
    """
    vault = Vault.existing(dest)
    with vault.locked(shared=True):
        snapshot = vault.snapshot(when)
        _check_kind(dest, snapshot, place)
        if vault.path == place.root or vault.path in place.root.resolve().parents:
            raise InputError(place.root, "lies in the backup.", "Name a folder elsewhere.")
        try:
            staging = _staging(place, vault, snapshot)
            with alone_in(staging):
                if not (staging / _MOVING).exists():
                    vault.write(staging / _MOVING, _collect(vault, snapshot, staging / _FILES, progress))
                damaged = json.loads((staging / _MOVING).read_text(encoding="utf-8"))
                _take_places(staging, place)
        except OSError as error:
            problem = f"cannot be restored ({error.strerror or error})."
            raise StorageError(place.root, problem, "Check its rights and free space, and run it again: it goes on.") from error
    return Restored(snapshot, damaged)


def _check_kind(dest: Path, snapshot: Snapshot, place: Place) -> None:
    if snapshot.pacs and not place.pacs:
        raise InputError(dest, "holds the work folder of a PACS server.", f"Name the server's URL, such as {snapshot.studies}.")
    if place.pacs and not snapshot.pacs:
        raise InputError(
            dest, "holds a studies folder, not the work folder of a PACS server.", "Name a folder in place of the URL."
        )


def _staging(place: Place, vault: Vault, snapshot: Snapshot) -> Path:
    """Returns the folder for the files, made if the place is empty, or that of a restore that was stopped."""
    staging = place.root / RESTORING
    if staging.is_symlink():
        raise ConflictError(staging, "is a symbolic link.", "Remove it.")
    mark = {"key": vault.identity()[0], "snapshot": snapshot.name}
    if place.root.exists() and not place.root.is_dir():
        raise InputError(place.root, "is a file.", "Name a folder.")
    place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = [path.name for path in place.root.iterdir() if path.name != "lost+found"]
    if RESTORING in there:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((staging / _MARK).read_text(encoding="utf-8")) == mark:
                return staging
        if there == [RESTORING] and not (staging / _FILES).exists():  # stopped before it copied anything
            return _marked(staging, vault, mark)
        problem = "holds what was restored from another snapshot, and not completely."
        raise ConflictError(place.root, problem, f"Remove {staging}, or restore that snapshot.")
    if there:
        raise ConflictError(place.root, "is not empty.", "Restore into an empty place, then compare or copy what is needed.")
    return _marked(staging, vault, mark)


def _marked(staging: Path, vault: Vault, mark: dict[str, str]) -> Path:
    staging.mkdir(mode=0o700, exist_ok=True)
    vault.write(staging / _MARK, mark)
    (staging / _FILES).mkdir(mode=0o700, exist_ok=True)
    return staging


def _collect(vault: Vault, snapshot: Snapshot, files: Path, progress: Progress) -> dict[str, str]:
    """Copies the files that are not there yet; returns those that the backup does not hold as they were."""
    part = files.with_name("part")  # beside the files, so that a kill leaves nothing among them
    part.unlink(missing_ok=True)
    files.mkdir(mode=0o700, exist_ok=True)  # one that was stopped may not have come to that
    damaged, done, total, made = dict[str, str](), 0, snapshot.size or 1, set[Path]()
    for entry in snapshot.entries.values():
        target = files / entry.path
        if target.parent not in made:
            make_folders(target.parent, files)
            made.add(target.parent)
        if not _is_there(target, entry):
            problem = _copy(vault, entry, part, target)
            if problem:
                damaged[entry.path] = problem
        done += entry.size
        progress("restoring", done / total)
    for folder in made:
        flush(folder)
    return damaged


def _is_there(target: Path, entry: Entry) -> bool:
    """Returns whether a restore that was stopped has copied a file."""
    return target.is_file() and target.stat().st_size == entry.size and sha256(target) == entry.sha256


def _copy(vault: Vault, entry: Entry, part: Path, target: Path) -> str:
    """Copies a content, under another name first; returns why the backup does not hold it as it was.

    Raises:
        OSError: it cannot be written.
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
    """The backup's disk is at fault, not the one that is written to."""


def _written(vault: Vault, entry: Entry, part: Path) -> str:
    """Copies a content; returns its checksum. No more is read than it should have: what grew must not fill the disk.

    Raises:
        _UnreadableError: it is not there, or cannot be read.
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
                raise _UnreadableError("it is larger than it should be")
            left -= len(block)
            digest.update(block)
            target.write(block)


def _take_places(staging: Path, place: Place) -> None:
    """Moves everything to its place: records first, images last, since a study exists as soon as its image is there."""
    first = [WORK_FOLDER, "store", "labels"]
    names = sorted((path.name for path in (staging / _FILES).iterdir()), key=lambda name: (name not in first, name))
    for name in names:
        target = place.root / name
        if target.exists() or target.is_symlink():
            raise ConflictError(target, "was put there while the snapshot was restored.", "Move it away, and run it again.")
        os.replace(staging / _FILES / name, target)
    flush(place.root)
    remove_folder(staging, place.root)
