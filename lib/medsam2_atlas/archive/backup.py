"""Copies a place into a backup while its server runs.

Versions of label maps never change, so it is enough to list their names under the studies' lock, together with the
current label maps. If a current label map is replaced before it is copied, the snapshot contains the newest listed version
instead. So it shows the state at the time of the listing. If a study is removed during a round, another round begins.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from medsam2_atlas.archive.databases import copied_database
from medsam2_atlas.archive.journal import DONE, RUNNING
from medsam2_atlas.archive.listing import Item, Listing, list_place
from medsam2_atlas.archive.manifest import Entry, Snapshot, as_line
from medsam2_atlas.archive.place import Place
from medsam2_atlas.archive.publishing import clear_leftovers, prune, publish
from medsam2_atlas.archive.repair import SnapshotRepair
from medsam2_atlas.archive.vault import Vault
from medsam2_atlas.base.errors import ConflictError, StorageError
from medsam2_atlas.base.files import opened
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.storage import FolderLock, stamp
from medsam2_atlas.storage.lineage import now

log = logging.getLogger(__name__)

_LINES = ".jsonl"
_ROUNDS = 5
_TRIES = 3
_CHANGED = "changed during each of three copies; the snapshot contains the last one. The next backup copies it again."


@dataclass(frozen=True)
class Backup:
    """The result of a backup.

    Attributes:
        snapshot: the added snapshot.
        added: the number of new file contents.
        left_out: why links were not followed, by path.
        removed: the names of removed snapshots.
    """

    snapshot: Snapshot
    added: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


class _VanishedError(Exception):
    """A version, an image or a log was removed or renamed before it was copied."""


def back_up(
    place: Place,
    dest: Path,
    *,
    images: bool = True,
    keep: int | None = None,
    moved: bool = False,
    progress: Progress = silent,
) -> Backup:
    """Adds a snapshot of a place to a backup.

    Args:
        place: the place to copy; nothing is written there.
        dest: the folder of the backup.
        images: whether images and fetched DICOM series are copied.
        keep: the number of snapshots to keep; all by default. If the new snapshot has problems, all are kept.
        moved: whether the place may have another path or URL than in earlier backups.
        progress: called with the fraction of copied bytes.

    Raises:
        InputError, ConflictError: the folder cannot be the backup of this place, or is in use.
        StorageError: the backup cannot be written, or the studies keep changing.
    """
    vault = Vault.of(dest, place, moved=moved)
    with vault.locked():
        if vault.identity()[0] != place.key:  # another process has just begun the backup of another place in this folder
            raise ConflictError(dest, f"is the backup of {vault.identity()[1]}.", "Name another folder.")
        clear_leftovers(vault)
        copying = _Copying(place, vault, images, progress)
        for _ in range(_ROUNDS):
            try:
                entries = copying.round()
                break
            except _VanishedError as error:
                log.info("%s was removed meanwhile; the files are listed again", error)
        else:
            raise StorageError(
                place.name, "keeps changing: files in it are removed or renamed repeatedly.", "Run the backup again later."
            )
        from medsam2_atlas.base.version import package_version  # imports SimpleITK

        about = Snapshot("", now(), place.name, place.pacs, images, copying.problems, package_version(), entries)
        made = publish(vault, about)
        removed = prune(vault, keep)[0] if keep is not None and not made.problems else []
        return Backup(made, vault.added, copying.left_out, tuple(removed))


@dataclass
class _Copying:
    """The rounds of one backup. A round does not read the files again that an earlier round has copied.

    Attributes:
        place: the place to copy.
        vault: the backup.
        images: whether images are copied.
        progress: called with the fraction of copied bytes.
        problems: problems of files, by path.
        left_out: why links were not followed, by path.
        sound: the files of the previous snapshot; empty if it has problems.
        known: files that need not be read again, by path.
    """

    place: Place
    vault: Vault
    images: bool
    progress: Progress
    problems: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    sound: Mapping[str, Entry] = field(default_factory=dict)
    known: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.vault.names()
        if names:
            try:
                previous = self.vault.snapshot(names[-1])
                self.sound = {} if previous.problems else previous.entries
                self.known.update(previous.entries)
            except StorageError as error:
                log.warning("the previous snapshot cannot be read, so all files are read again: %s", error)
        self.known.update(self.vault.journalled())

    def round(self) -> dict[str, Entry]:
        """Copies all files.

        Raises:
            _VanishedError: a version or image was removed meanwhile.
        """
        listing = list_place(self.place, images=self.images)
        self.problems, self.left_out = dict(listing.problems), listing.left_out
        entries = self._copied(listing)
        repair = SnapshotRepair(self.place, self.vault, entries, self.problems)
        repair.versions(self.sound)
        for path, item in listing.items.items():
            if item.kind == "label" and (path not in entries or entries[path].stamp != item.stamp):
                repair.label(path)
        self._check_still_there(listing)
        return entries

    def _check_still_there(self, listing: Listing) -> None:
        """Raises a _VanishedError if a version or image was removed meanwhile, or if a file that is appended to was renamed."""
        for path, item in listing.items.items():
            if item.kind in ("version", "image") and not (self.place.root / path).exists():
                raise _VanishedError(path)
        for folder in {(self.place.root / path).parent for path in listing.items if path.endswith(_LINES)}:
            for file in folder.glob(f"*{_LINES}"):
                if self.place.relative(file) not in listing.items and file.name not in (RUNNING, DONE):
                    raise _VanishedError(file.name)

    def _copied(self, listing: Listing) -> dict[str, Entry]:
        found, total, done = dict[str, Entry](), sum(item.size for item in listing.items.values()) or 1, 0
        with self.vault.writes():
            journal = self.vault.opened_journal()
        with journal:
            for path, item in listing.items.items():
                try:
                    entry = self._entry(item)
                except FileNotFoundError:
                    if item.kind in ("version", "image"):
                        raise _VanishedError(path) from None
                    continue
                except OSError as error:
                    self.problems[path] = f"cannot be read ({error.strerror or error}). Check its permissions and the disk."
                    continue
                if self.known.get(path) != entry:
                    with self.vault.writes():
                        journal.write(as_line(entry).encode())
                    self.known[path] = entry
                found[path] = entry
                done += item.size
                self.progress("copying", min(done / total, 1.0))
        self.vault.commit()
        self.progress("copying", 1.0)
        return found

    def _entry(self, item: Item) -> Entry:
        """Copies a file to the backup if the backup does not contain it yet."""
        if item.kind == "database":
            return self._database(item)
        for last in (*[False] * (_TRIES - 1), True):
            with opened(self.place.root / item.path, follow=True) as stream:
                state = os.fstat(stream.fileno())
                known = self.known.get(item.path)
                if known and known.stamp == stamp(state) and self.vault.has(known.sha256, known.size):
                    return known
                if item.kind == "other" and item.path.endswith(_LINES):
                    return self._lines(item, stream)
                digest, size = self.vault.add(stream, known.sha256 if known else "")
                after = os.fstat(stream.fileno())
            entry = Entry(item.path, size, digest, state.st_mode & 0o777, max(0, state.st_mtime_ns), stamp(state))
            if stamp(after) == entry.stamp:
                return entry
            if last:
                # Other files are appended to, so that any first part of them is usable.
                if item.kind in ("image", "label", "version"):
                    self.problems[item.path] = _CHANGED
                return replace(entry, stamp="")
        raise AssertionError

    def _lines(self, item: Item, stream: BinaryIO) -> Entry:
        """Copies all complete lines of a file that other processes append to, such as the audit log."""
        with FolderLock((self.place.root / item.path).parent).held():  # the processes that append hold this lock
            state = os.fstat(stream.fileno())
        digest, size = self.vault.add(io.BytesIO(stream.read(state.st_size)))
        return Entry(item.path, size, digest, state.st_mode & 0o777, max(0, state.st_mtime_ns), stamp(state))

    def _database(self, item: Item) -> Entry:
        file = self.place.root / item.path
        state, known = file.stat(), self.known.get(item.path)
        quiet = not file.with_name(f"{file.name}-journal").exists()
        if quiet and known and known.stamp == stamp(state) and self.vault.has(known.sha256, known.size):
            return known
        with copied_database(file) as copy, opened(copy) as stream:
            digest, size = self.vault.add(stream)
        mtime = max(0, state.st_mtime_ns)
        return Entry(item.path, size, digest, state.st_mode & 0o777, mtime, stamp(state) if quiet else "")
