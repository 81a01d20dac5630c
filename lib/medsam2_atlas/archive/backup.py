"""Copies a place into a backup while its server runs.

Versions of label maps are never changed, so that only their names are listed under the studies' lock, together with the current
label maps. A current label map that is replaced before it is copied gets the content of the newest version that was listed: the
snapshot shows the moment of the listing. If a study is removed meanwhile, the round begins again.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsam2_atlas.archive.databases import copied_database
from medsam2_atlas.archive.listing import Item, Listing, lineages, list_place
from medsam2_atlas.archive.manifest import Entry, Snapshot, as_line
from medsam2_atlas.archive.place import Place
from medsam2_atlas.archive.publishing import clear_leftovers, prune, publish
from medsam2_atlas.archive.vault import Vault, opened
from medsam2_atlas.errors import StorageError
from medsam2_atlas.kinds import suffix_in
from medsam2_atlas.progress import Progress, silent
from medsam2_atlas.segmentation import package_version
from medsam2_atlas.storage import Version, stamp
from medsam2_atlas.storage.lineage import now

log = logging.getLogger(__name__)

_RECORD = re.compile(r"\d{5,}\.json")
_ROUNDS = 5
_TRIES = 3
_CHANGED = "was written to while it was copied, three times; it is as it was at the last. The next backup copies it again."


@dataclass(frozen=True)
class Backup:
    """What a backup did. added: number of contents that were new; removed: snapshots that were removed."""

    snapshot: Snapshot
    added: int
    removed: tuple[str, ...] = ()


class _VanishedError(Exception):
    """A version or image was removed while it was to be copied."""


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
        place: to copy; nothing is written there.
        dest: folder of the backup.
        images: whether images and fetched DICOM series are copied.
        keep: how many snapshots stay; all by default. If this one has problems, all stay.
        moved: whether the place may have another path or URL than before.
        progress: called with the fraction of bytes.

    Raises:
        InputError, ConflictError: the folder cannot be the backup of this place, or is in use.
        StorageError: it cannot be written to, or the studies keep changing.
    """
    vault = Vault.of(dest, place, moved=moved)
    with vault.locked():
        clear_leftovers(vault)
        copying = _Copying(place, vault, images, progress)
        for _ in range(_ROUNDS):
            try:
                entries = copying.round()
                break
            except _VanishedError as error:
                log.info("%s was removed meanwhile; the files are listed again", error)
        else:
            raise StorageError(place.name, "loses studies again and again while it is copied.", "Run the backup again later.")
        about = Snapshot("", now(), place.name, place.pacs, images, copying.problems, package_version(), entries)
        made = publish(vault, about)
        removed = prune(vault, keep)[0] if keep is not None and not made.problems else []
        return Backup(made, vault.added, tuple(removed))


@dataclass
class _Copying:
    """The rounds of one backup; what a round has copied, the next one does not read again."""

    place: Place
    vault: Vault
    images: bool
    progress: Progress
    problems: dict[str, str] = field(default_factory=dict)
    known: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.vault.names()
        if names:
            try:
                self.known.update(self.vault.snapshot(names[-1]).entries)
            except StorageError as error:
                log.warning("all files are read: %s", error)
        self.known.update(self.vault.journalled())

    def round(self) -> dict[str, Entry]:
        """Copies everything.

        Raises:
            _VanishedError: a version or image was removed meanwhile.
        """
        listing = list_place(self.place, images=self.images)
        self.problems = dict(listing.problems)
        entries = self._copied(listing)
        self._settle_versions(entries)
        for path, item in listing.items.items():
            if item.kind == "label" and (path not in entries or entries[path].stamp != item.stamp):
                self._settle_label(path, entries)
        for item in listing.items.values():
            if item.kind in ("version", "image") and not (self.place.root / item.path).exists():
                raise _VanishedError(item.path)
        return entries

    def _copied(self, listing: Listing) -> dict[str, Entry]:
        found, total, done = dict[str, Entry](), sum(item.size for item in listing.items.values()) or 1, 0
        with self.vault.writes():
            journal = self.vault.journal.open("a", encoding="utf-8")
        with journal:
            self.vault.journal.chmod(0o600)
            for path, item in listing.items.items():
                try:
                    entry = self._entry(item)
                except FileNotFoundError:
                    if item.kind in ("version", "image"):
                        raise _VanishedError(path) from None
                    continue
                except OSError as error:
                    self.problems[path] = f"cannot be read ({error.strerror or error}). Check its rights and the disk."
                    continue
                if self.known.get(path) != entry:
                    with self.vault.writes():
                        journal.write(as_line(entry))
                        journal.flush()
                    self.known[path] = entry
                found[path] = entry
                done += item.size
                self.progress("copying", min(done / total, 1.0))
        self.progress("copying", 1.0)
        return found

    def _entry(self, item: Item) -> Entry:
        """Copies a file, unless the backup has it."""
        if item.kind == "database":
            return self._database(item)
        for last in (*[False] * (_TRIES - 1), True):
            with opened(self.place.root / item.path, follow=True) as stream:
                state = os.fstat(stream.fileno())
                known = self.known.get(item.path)
                if known and known.stamp == stamp(state) and self.vault.has(known.sha256, known.size):
                    return known
                expected = known.sha256 if known else ""
                digest, size = self.vault.add(stream, expected)
                after = os.fstat(stream.fileno())
            entry = Entry(item.path, size, digest, state.st_mode & 0o777, max(0, state.st_mtime_ns), stamp(state))
            if stamp(after) == entry.stamp:
                return entry
            if last:
                if item.kind in ("image", "label", "version"):  # others grow by lines: any beginning of them is good
                    self.problems[item.path] = _CHANGED
                return replace(entry, stamp="")
        raise AssertionError

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

    def _settle_versions(self, entries: dict[str, Entry]) -> None:
        """Compares versions with their records. A damaged one is replaced by its content of a former backup, if that has it."""
        folder = self.place.relative(self.place.versions)
        for (tag, study), names in lineages(list(entries), self.place).items():
            for name in (name for name in names if _RECORD.fullmatch(name)):
                path = f"{folder}/{tag}/{study}/{name}"
                version = self._version(entries[path])
                if version is None:
                    self.problems[path] = "is not a readable record. Move it away: its label file becomes a new version."
                elif not version.removed:
                    self._settle_version(f"{folder}/{tag}/{study}/{version.file}", version, entries)

    def _settle_version(self, path: str, version: Version, entries: dict[str, Entry]) -> None:
        found = entries.get(path)
        if found is not None and found.sha256 == version.sha256:
            return
        problem = "is missing" if found is None else "has changed since it was saved"
        if self.vault.intact(version.sha256):
            size = self.vault.content(version.sha256).stat().st_size
            entries[path] = Entry(path, size, version.sha256, 0o600 if found is None else found.mode)
            self.problems[path] = f"{problem}; the snapshot holds it as it was saved, from an earlier copy."
        else:
            self.problems[path] = f"{problem}. Restore it from another backup."

    def _settle_label(self, path: str, entries: dict[str, Entry]) -> None:
        """Gives a label map that was replaced or removed the content that it had when it was listed."""
        tag, _, name = path.removeprefix(f"{self.place.relative(self.place.studies / 'labels')}/").partition("/")
        study = name[: -len(suffix_in(name, labels=True) or " ")]
        folder = f"{self.place.relative(self.place.versions)}/{tag}/{study}"
        records = [entry for at, entry in entries.items() if at.startswith(f"{folder}/") and at.endswith(".json")]
        newest = self._version(max(records, key=lambda entry: entry.path)) if records else None
        if newest is None:
            return
        entries.pop(path, None)
        kept = entries.get(f"{folder}/{newest.file}")
        if kept is not None and not newest.removed:
            shown = path[: -len(name)] + study + suffix_in(newest.file, labels=True)
            entries[shown] = replace(kept, path=shown, stamp="")

    def _version(self, record: Entry) -> Version | None:
        """Returns a version as its copied record tells it; None if it cannot be read."""
        try:
            version = Version.from_json(self.vault.content(record.sha256).read_text(encoding="utf-8"))
            return version if "/" not in str(version.file) else None
        except (OSError, ValueError, TypeError):
            return None
