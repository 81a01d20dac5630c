"""Adds snapshots to a backup, and removes old snapshots and the remains of crashed backups."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from medsam2_atlas.archive.manifest import Entry, Snapshot, read_snapshot, write_snapshot
from medsam2_atlas.archive.vault import Vault
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.storage import flush

log = logging.getLogger(__name__)


def publish(vault: Vault, snapshot: Snapshot) -> Snapshot:
    """Adds a snapshot to a backup that contains all its file contents. The list is written after the tree, in one step.

    Returns:
        The snapshot with its name.

    Raises:
        StorageError: the snapshot cannot be written.
    """
    made = datetime.fromisoformat(snapshot.made).astimezone(timezone.utc)
    base = name = f"{made:%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    while vault.list_file(name).exists() or (vault.snapshots / name).exists():
        number += 1
        name = f"{base}-{number}"
    named = replace(snapshot, name=name)
    part = vault.snapshots / f".part-{os.urandom(6).hex()}.jsonl"
    try:
        with vault.writes():
            _link_tree(vault, name, snapshot.entries)
            write_snapshot(named, part)
            os.replace(part, vault.list_file(name))
            flush(vault.snapshots)
            vault.journal.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return named


def prune(vault: Vault, keep: int) -> tuple[list[str], int]:
    """Removes all but the newest snapshots, then the contents that no remaining snapshot needs.

    Args:
        vault: the backup.
        keep: the number of snapshots to keep.

    Returns:
        The names of the removed snapshots, and the number of removed contents.

    Raises:
        StorageError: the list of a kept snapshot cannot be read, so nothing is removed; or a file cannot be removed.
    """
    names = vault.names()
    old, kept = names[:-keep], names[-keep:]
    needed = set[str]()
    for name in kept:
        try:
            needed |= {entry.sha256 for entry in read_snapshot(vault.list_file(name)).entries.values()}
        except StorageError as error:
            remedy = f"No old snapshot was removed. Remove {name}.jsonl if you do not need that snapshot."
            raise StorageError(error.subject, error.problem, remedy) from error
    with vault.writes():
        for name in old:
            vault.list_file(name).unlink()  # without its list, the snapshot does not exist
            remove_folder(vault.snapshots / name, vault.snapshots)
        flush(vault.snapshots)
        unneeded = [file for folder in _folders(vault.objects) for file in folder.iterdir() if file.name not in needed]
        for file in unneeded:
            file.unlink()
    return old, len(unneeded)


def clear_leftovers(vault: Vault) -> None:
    """Removes unfinished files and trees without a list, which crashed backups have left. The backup must be locked."""
    for folder in (vault.path, vault.objects, vault.snapshots):
        for path in folder.iterdir():
            tree = folder == vault.snapshots and path.is_dir() and not vault.list_file(path.name).exists()
            if not path.name.startswith(".part-") and not tree:
                continue
            try:
                if path.is_dir() and not path.is_symlink():
                    remove_folder(path, folder)
                else:
                    path.unlink()
            except (OSError, StorageError) as error:
                log.warning("%s is left over and cannot be removed: %s", path, error)


def _link_tree(vault: Vault, name: str, entries: Mapping[str, Entry]) -> None:
    """Makes the tree of a snapshot; makes none if the disk does not support hard links or the name of a file."""
    part, made = vault.snapshots / f".part-{os.urandom(6).hex()}", set[Path]()
    try:
        part.mkdir(mode=0o700)
        for path, entry in entries.items():
            target = part / path
            if target.parent not in made:
                make_folders(target.parent, part)
                made.add(target.parent)
            _link(vault.content(entry.sha256), target)
        os.replace(part, vault.snapshots / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove_folder(part, vault.snapshots)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        log.warning("the snapshot %s has no tree: %s", name, error)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        shutil.copyfile(source, target)  # the content has the max number of hard links
        target.chmod(0o600)


def make_folders(folder: Path, top: Path) -> None:
    """Creates a folder and all folders between it and `top`; only their user may access them."""
    made = top
    for name in folder.relative_to(top).parts:
        made /= name
        made.mkdir(mode=0o700, exist_ok=True)


def _folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.is_symlink()]
