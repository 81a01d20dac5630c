"""Verifies a place or a backup: all recorded checksums, and whether all files that belong together exist.

A verification writes only its own progress, and can run while the server runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.archive.findings import FROM_BACKUP, Finding
from medsam2_atlas.archive.journal import Journal, Sums
from medsam2_atlas.archive.label_checks import LabelChecks
from medsam2_atlas.archive.listing import Item, list_place
from medsam2_atlas.archive.manifest import read_snapshot
from medsam2_atlas.archive.other_checks import image_index, other_findings
from medsam2_atlas.archive.place import Place
from medsam2_atlas.archive.vault import Vault
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import opened, stream_sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.resource import state_folder
from medsam2_atlas.storage import stamp

_TRIES = 3
_LEFTOVER_SECONDS = 3600.0
_ROT = "has changed without having been written: its disk has failed, or its modification time was set back."


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        findings: the problems.
        files: the number of files that were read.
        resumed: the number of files among them that an earlier, stopped run has read.
    """

    findings: tuple[Finding, ...]
    files: int
    resumed: int

    @property
    def sound(self) -> bool:
        """Whether no content is lost, damaged or in doubt."""
        return not any(finding.lost for finding in self.findings)


def verify(place: Place, *, again: bool = False, images: bool = True, progress: Progress = silent) -> Verification:
    """Verifies a place.

    Args:
        place: the place to verify.
        again: whether to start over instead of resuming a stopped run.
        images: whether every study with label maps must have its image.
        progress: called with the fraction of bytes read.

    Raises:
        ConflictError: another process is verifying the place.
        StorageError: the progress cannot be stored.
    """
    with Journal.opened((place.work, state_folder() / "verify" / place.key[:16]), again=again) as journal:
        listing = list_place(place)
        findings = [Finding(path, problem) for path, problem in listing.problems.items()]
        findings += [Finding(path, problem, lost=False) for path, problem in listing.left_out.items()]
        reading = _Reading(place.root, journal, findings)
        sums = reading.all(listing.items.values(), progress)
        indexed = image_index(place)
        for path, (known, checksum) in indexed.items():
            if path in sums and sums[path][0] == known and sums[path][1] != checksum and path not in reading.rotten:
                findings.append(Finding(path, _ROT, FROM_BACKUP))
        findings += LabelChecks(place, listing, {path: checksum for path, (_, checksum) in sums.items()}, images).findings()
        findings += other_findings(place, listing)
        findings += _leftovers(place, listing.unfinished)
        # The old checksums of rotten files are kept, so that the next run reports these files again.
        journal.finish(sums | reading.rotten)
        return Verification(tuple(sorted(findings, key=lambda found: found.path)), len(sums), reading.resumed)


def verify_backup(dest: Path, *, again: bool = False, progress: Progress = silent) -> Verification:
    """Verifies the lists of all snapshots of a backup, and all contents in these lists.

    Args:
        dest: the folder of the backup.
        again: whether to start over instead of resuming a stopped run.
        progress: called with the fraction of bytes read.

    Raises:
        InputError: the folder is not a backup.
        ConflictError: a backup is running, or another process is verifying the backup.
        StorageError: the backup cannot be used.
    """
    vault = Vault.existing(dest)
    with vault.locked(shared=True), Journal.opened((vault.path, state_folder() / "verify" / "backup"), again=again) as journal:
        findings, needed = list[Finding](), dict[str, tuple[int, str]]()
        for name in vault.names():
            try:
                for entry in read_snapshot(vault.list_file(name)).entries.values():
                    needed.setdefault(entry.sha256, (entry.size, f"{name}: {entry.path}"))
            except StorageError as error:
                findings.append(Finding(vault.list_file(name).name, error.problem, "Its tree may still be readable."))
        items = [Item(str(vault.content(sha).relative_to(vault.path)), "other", size=needed[sha][0]) for sha in sorted(needed)]
        reading = _Reading(vault.path, journal, findings)
        # A content of the wrong size is damaged. It is not read, since it may be of any size.
        sums = reading.all([item for item in items if vault.size(Path(item.path).name) in (None, item.size)], progress)
        unread = {found.path for found in findings}
        for item in items:
            sha = Path(item.path).name
            if item.path not in sums and item.path not in unread and vault.size(sha) is None:
                findings.append(Finding(item.path, f"is missing ({needed[sha][1]}).", "Back up into another folder."))
            elif item.path not in unread and (item.path not in sums or sums[item.path][1] != sha):
                problem = f"is damaged ({needed[sha][1]})."
                findings.append(Finding(item.path, problem, "Remove this file. The next backup copies it again."))
        journal.finish(sums)
        return Verification(tuple(findings), len(sums), reading.resumed)


@dataclass
class _Reading:
    """Reads files and computes their checksums.

    Attributes:
        root: the folder of the files.
        journal: stores the checksums.
        findings: the problems; the methods append to it.
        resumed: the number of files that an earlier, stopped run has read.
        rotten: the previous checksums of files that have changed without having been written.
    """

    root: Path
    journal: Journal
    findings: list[Finding]
    resumed: int = 0

    def __post_init__(self) -> None:
        self.rotten = Sums()

    def all(self, items: Iterable[Item], progress: Progress) -> Sums:
        """Returns stamps and checksums by path; reports unreadable files, and skips files that were removed meanwhile."""
        files, found, done = list(items), Sums(), 0
        total = sum(item.size for item in files) or 1
        for item in files:
            try:
                if item.kind != "database":  # databases are written in place, and checked by SQLite
                    self._read(item.path, found)
            except FileNotFoundError:
                pass
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error})."
                self.findings.append(Finding(item.path, problem, f"Check its permissions and the disk. {FROM_BACKUP}"))
            done += item.size
            progress("verifying", min(done / total, 1.0))
        return found

    def _read(self, path: str, found: Sums) -> None:
        for _ in range(_TRIES):
            with opened(self.root / path, follow=True) as stream:
                now = stamp(os.fstat(stream.fileno()))
                known = self.journal.known(path)
                if known and known[0] == now:
                    found[path] = known
                    self.resumed += 1
                    break
                checksum = stream_sha256(stream)
                steady = stamp(os.fstat(stream.fileno())) == now
            if steady:
                found[path] = (now, checksum)
                self.journal.add(path, now, checksum)
                break
        else:
            return  # another process is writing to the file
        before = self.journal.before(path)
        if before and before[0] == found[path][0] and before[1] != found[path][1]:
            self.rotten[path] = before
            self.findings.append(Finding(path, _ROT, FROM_BACKUP))


def _leftovers(place: Place, paths: list[str]) -> list[Finding]:
    """Returns temporary files that a crashed process has left."""
    found = []
    for path in paths:
        try:
            old = time.time() - (place.root / path).lstat().st_mtime > _LEFTOVER_SECONDS
        except OSError:
            continue
        if old:
            found.append(Finding(path, "was left unfinished by a crashed process.", "The server removes it.", lost=False))
    return found
