"""The folder of a backup.

    backup.json          which studies it belongs to
    objects/ab/abcd…     each content once, named by its SHA-256
    snapshots/TIME.jsonl the list of a snapshot, written last: a snapshot without a list does not exist
    snapshots/TIME/      the same as a tree of hard links, to be copied back without this program
    journal.jsonl        what an unfinished backup has copied so far

One backup at a time writes into it; restores and checks keep backups out meanwhile.
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

from medsam2_atlas.archive.alone import alone_in
from medsam2_atlas.archive.contents import Contents
from medsam2_atlas.archive.manifest import Entry, Snapshot, read_snapshot
from medsam2_atlas.archive.place import Place
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.base.files import opened
from medsam2_atlas.storage import flush

IDENTITY = "backup.json"
_FORMAT = 1
_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)(?:-(\d{1,4}))?")
_IGNORED = re.compile(r"lost\+found|\.part-.*")
"""Names that an empty folder may hold."""
_MAX_IDENTITY_BYTES = 1 << 16


class Vault(Contents):
    """The folder. Only its user may read what it writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.snapshots, self.journal = path / "snapshots", path / "journal.jsonl"

    @classmethod
    def existing(cls, path: Path) -> Vault:
        """A backup that is there.

        Raises:
            InputError: there is none.
            StorageError: it is damaged, or of a later version of the program.
        """
        vault = cls(Path(path).resolve())
        if not (vault.path / IDENTITY).is_file():
            raise InputError(path, "is no backup.", "Make one: medsam2-atlas studies backup STUDIES DEST.")
        vault.identity()
        return vault

    @classmethod
    def of(cls, path: Path, place: Place, *, moved: bool = False) -> Vault:
        """The backup of a place; made if the folder is new or empty.

        Args:
            path: of the folder.
            place: what is backed up.
            moved: whether the place may have another path or URL than before.

        Raises:
            InputError: the folder lies in the studies, or holds something else.
            ConflictError: it is the backup of other studies.
            StorageError: it cannot be used.
        """
        vault, root = cls(Path(path).resolve()), place.root.resolve()
        if vault.path == root or root in vault.path.parents:
            raise InputError(path, "lies in the folder that is backed up.", "Name a folder on another disk.")
        if (vault.path / IDENTITY).exists():
            key, name = vault.identity()
            if key != place.key and not moved:
                remedy = "Name another folder; if the studies were moved or renamed, add --moved."
                raise ConflictError(path, f"is the backup of {name}.", remedy)
        elif vault.path.is_dir() and any(not _IGNORED.fullmatch(entry.name) for entry in vault.path.iterdir()):
            raise InputError(path, "is neither empty nor a backup.", "Name a new folder.")
        with vault.writes():
            vault.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (vault.path / IDENTITY).exists() or moved:  # first, so that a kill leaves a backup or nothing
                vault.write(vault.path / IDENTITY, {"format": _FORMAT, "key": place.key, "studies": place.name})
            for folder in (vault.objects, vault.snapshots):
                folder.mkdir(mode=0o700, exist_ok=True)
                if folder.is_symlink():
                    raise StorageError(folder, "is a symbolic link.", "Name another folder.")
        return vault

    def identity(self) -> tuple[str, str]:
        """Returns digest and name of the studies that it belongs to.

        Raises:
            StorageError: the file cannot be read.
        """
        file = self.path / IDENTITY
        try:
            with opened(file) as stream:
                content = json.loads(stream.read(_MAX_IDENTITY_BYTES))
            if content["format"] != _FORMAT:
                raise StorageError(file, f"has format {content['format']!r}.", "Use the version of this program that wrote it.")
            return str(content["key"]), str(content["studies"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(file, f"cannot be read ({error}).", "Name another folder for the backup.") from error

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keeps other backups out while the block runs; with `shared`, other readers may enter.

        Raises:
            ConflictError: another program is using it.
        """
        with alone_in(self.path, shared=shared):
            try:
                yield
            finally:
                with contextlib.suppress(StorageError):  # after an error too: the next backup goes on with them
                    self.settle()
                self.drop_unsettled()

    # -- snapshots

    def names(self) -> list[str]:
        """Names of all snapshots, the oldest first."""
        try:
            found = [entry.name.removesuffix(".jsonl") for entry in self.snapshots.iterdir() if entry.name.endswith(".jsonl")]
        except FileNotFoundError:
            return []
        return sorted((name for name in found if _NAME.fullmatch(name)), key=_order)

    def list_file(self, name: str) -> Path:
        """The list of a snapshot."""
        return self.snapshots / f"{name}.jsonl"

    def snapshot(self, when: str = "") -> Snapshot:
        """Returns the newest snapshot, or the newest of those whose names begin with `when`.

        Raises:
            InputError: there is none.
            StorageError: its list cannot be read.
        """
        names = [name for name in self.names() if name.startswith(when)]
        if not names:
            there = ", ".join(self.names()[-5:]) or "it holds none that is complete"
            raise InputError(self.path, f"has no snapshot {when!r}." if when else "has no snapshot.", f"There are: {there}.")
        exact = when if when in names else names[-1]
        return read_snapshot(self.list_file(exact))

    def journalled(self) -> dict[str, Entry]:
        """Returns what an unfinished backup has copied, by path; lines that a kill has cut are left out."""
        found = {}
        with contextlib.suppress(OSError), opened(self.journal) as stream:
            for line in stream:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = Entry.from_json(json.loads(line))
                    found[entry.path] = entry
        return found

    def opened_journal(self) -> io.FileIO:
        """Opens the journal to add lines, each with one write. The folder may be open to others: no link is followed.

        Raises:
            OSError: it cannot be written.
        """
        handle = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        stream = io.FileIO(handle, "a")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            stream.close()
            raise OSError(errno.EINVAL, "not a regular file", str(self.journal))
        return stream

    def write(self, file: Path, content: object) -> None:
        """Writes a small file in one step; only its user may read it."""
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
