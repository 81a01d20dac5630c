"""The folder of a backup.

    backup.json          the studies that it belongs to
    objects/ab/abcd…     each content once, named by its SHA-256
    snapshots/TIME.jsonl the list of a snapshot, written last: a snapshot without a list does not exist
    snapshots/TIME/      the same as a tree of hard links, which can be copied back without this program
    journal.jsonl        the files that an unfinished backup has copied so far

One backup at a time writes into it; restores and verifications lock out backups.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.archive.contents import Contents
from medsam2_atlas.archive.locking import locked_folder
from medsam2_atlas.archive.manifest import Entry, Snapshot, read_snapshot
from medsam2_atlas.archive.place import Place
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.base.files import opened
from medsam2_atlas.storage import flush

IDENTITY = "backup.json"
_FORMAT = 1
_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)(?:-(\d{1,4}))?")
_IGNORED = re.compile(r"lost\+found|\.part-.*")
"""Names that are ignored in the check for an empty folder."""
_MAX_IDENTITY_BYTES = 1 << 16


class Vault(Contents):
    """The folder of a backup. Only the user who writes it may read it.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.snapshots, self.journal = path / "snapshots", path / "journal.jsonl"

    @classmethod
    def existing(cls, path: Path) -> Vault:
        """Returns an existing backup.

        Raises:
            InputError: the folder is not a backup.
            StorageError: the backup is damaged, or belongs to a later release of the program.
        """
        vault = cls(Path(path).resolve())
        if not (vault.path / IDENTITY).is_file():
            raise InputError(path, "is not a backup.", "Make one: medsam2-atlas studies backup STUDIES DEST.")
        vault.identity()
        return vault

    @classmethod
    def of(cls, path: Path, place: Place, *, moved: bool = False) -> Vault:
        """Returns the backup of a place; creates it if the folder is new or empty.

        Args:
            path: the folder of the backup.
            place: the place to back up.
            moved: whether the place may have another path or URL than in earlier backups.

        Raises:
            InputError: the folder is inside the studies folder, or contains other files.
            ConflictError: the folder is the backup of other studies.
            StorageError: the folder cannot be used.
        """
        vault, root = cls(Path(path).resolve()), place.root.resolve()
        if vault.path == root or root in vault.path.parents:
            raise InputError(path, "is inside the folder that is backed up.", "Name a folder on another disk.")
        if (vault.path / IDENTITY).exists():
            key, name = vault.identity()
            if key != place.key and not moved:
                remedy = "Name another folder; if the studies were moved or renamed, add --moved."
                raise ConflictError(path, f"is the backup of {name}.", remedy)
        elif vault.path.is_dir() and any(not _IGNORED.fullmatch(entry.name) for entry in vault.path.iterdir()):
            raise InputError(path, "is neither empty nor a backup.", "Name a new folder.")
        with vault.writes():
            vault.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (vault.path / IDENTITY).exists() or moved:  # written first: a killed process leaves a backup or nothing
                vault.write(vault.path / IDENTITY, {"format": _FORMAT, "key": place.key, "studies": place.name})
            for folder in (vault.objects, vault.snapshots):
                folder.mkdir(mode=0o700, exist_ok=True)
                if folder.is_symlink():
                    raise StorageError(folder, "is a symbolic link.", "Name another folder.")
        return vault

    def identity(self) -> tuple[str, str]:
        """Returns the digest and the name of the studies that the backup belongs to.

        Raises:
            StorageError: the file cannot be read.
        """
        file = self.path / IDENTITY
        try:
            with opened(file) as stream:
                content = json.loads(stream.read(_MAX_IDENTITY_BYTES))
            if content["format"] != _FORMAT:
                raise StorageError(file, f"has format {content['format']!r}.", "Use the release of this program that wrote it.")
            return str(content["key"]), str(content["studies"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(file, f"cannot be read ({error}).", "Name another folder for the backup.") from error

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Locks the backup for the duration of the block, and commits new contents after it.

        Args:
            shared: whether other processes may read the backup at the same time.

        Raises:
            ConflictError: another process is using the backup.
        """
        with locked_folder(self.path, shared=shared):
            try:
                yield
            finally:
                with contextlib.suppress(StorageError):  # also after an error: the next backup resumes from them
                    self.commit()
                self.drop_uncommitted()

    def names(self) -> list[str]:
        """Returns the names of all snapshots, the oldest first."""
        try:
            found = [entry.name.removesuffix(".jsonl") for entry in self.snapshots.iterdir() if entry.name.endswith(".jsonl")]
        except FileNotFoundError:
            return []
        return sorted((name for name in found if _NAME.fullmatch(name)), key=_order)

    def list_file(self, name: str) -> Path:
        """Returns the file with the list of a snapshot."""
        return self.snapshots / f"{name}.jsonl"

    def snapshot(self, when: str = "") -> Snapshot:
        """Returns the newest snapshot whose name begins with a text; an exact match takes precedence.

        Args:
            when: the name of the snapshot, or the beginning of its name; empty for any.

        Raises:
            InputError: there is no such snapshot.
            StorageError: its list cannot be read.
        """
        names = [name for name in self.names() if name.startswith(when)]
        if not names:
            newest = ", ".join(self.names()[-5:])
            remedy = f"Choose one of the newest: {newest}." if newest else "Run a backup: none is complete yet."
            raise InputError(self.path, f"has no snapshot {when!r}." if when else "has no snapshot.", remedy)
        exact = when if when in names else names[-1]
        return read_snapshot(self.list_file(exact))

    def journalled(self) -> dict[str, Entry]:
        """Returns the files that an unfinished backup has copied, by path; skips incomplete lines."""
        found = {}
        with contextlib.suppress(OSError), opened(self.journal) as stream:
            for line in stream:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = Entry.from_json(json.loads(line))
                    found[entry.path] = entry
        return found

    def opened_journal(self) -> io.FileIO:
        """Opens the journal to append lines, each with one write. Follows no link: other users may write to the folder.

        Raises:
            OSError: the journal cannot be written.
        """
        handle = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        stream = io.FileIO(handle, "a")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            stream.close()
            raise OSError(errno.EINVAL, "not a regular file", str(self.journal))
        return stream

    def write(self, file: Path, content: object) -> None:
        """Writes a small JSON file in one step; only the user who writes it may read it."""
        part = file.with_name(f".part-{os.urandom(6).hex()}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                stream.write(json.dumps(content, indent=1) + "\n")
            flush(part)
            os.replace(part, file)
            flush(file.parent)
        finally:
            part.unlink(missing_ok=True)


def _order(name: str) -> tuple[str, int]:
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2] or 1)) if match else (name, 0)
