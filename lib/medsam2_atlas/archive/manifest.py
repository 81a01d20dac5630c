"""Reads and writes the list of a snapshot: one line of JSON for the snapshot, then one for each of its files.

Other users may be able to write to the backup's disk, so a list is checked before it is used: no path may lead out of the
restored folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.storage import flush

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 1 << 30
_REMEDY = "Choose another snapshot: medsam2-atlas studies snapshots DEST."


@dataclass(frozen=True)
class Entry:
    """A file of a snapshot.

    Attributes:
        path: its path relative to the folder that was backed up.
        size: its size in bytes.
        sha256: the SHA-256 of its content.
        mode: its permissions.
        mtime_ns: the time when it was last written, in ns since 1970.
        stamp: the stamp of the copied file; a file with the same stamp is not read again.
    """

    path: str
    size: int
    sha256: str
    mode: int = 0o600
    mtime_ns: int = 0
    stamp: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Entry:
        """Returns an entry from parsed JSON.

        Raises:
            ValueError, KeyError, TypeError: the content is not an entry, or its path leads out of the folder.
        """
        path, digest = content["path"], content["sha256"]
        if not isinstance(path, str) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError("not a file with its checksum")
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") for part in parts) or any(len(os.fsencode(p)) > 255 for p in parts):
            raise ValueError("a path that leads out of the folder")
        size, mode, mtime = (int(content[key]) for key in ("size", "mode", "mtime_ns"))
        if size < 0 or not 0 <= mtime < 1 << 63:
            raise ValueError("an impossible size or time")
        return cls(path, size, digest, mode & 0o777, mtime, str(content.get("stamp", "")))


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a place.

    Attributes:
        name: its time, as in the name of its list; set when the list is written or read.
        made: the time of the backup, ISO 8601, UTC.
        studies: the path or URL of the studies.
        pacs: whether the place is the work folder of a PACS server.
        images: whether the snapshot contains images.
        problems: problems of files of the place, by path.
        program: the release of the program that made it.
        entries: its files by path.
    """

    name: str
    made: str
    studies: str
    pacs: bool
    images: bool = True
    problems: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The total size of its files in bytes."""
        return sum(entry.size for entry in self.entries.values())


def write_snapshot(snapshot: Snapshot, file: Path) -> None:
    """Writes the list of a snapshot to a temporary file, flushed to disk; only the user who writes it may read it."""
    lines = "".join(as_line(entry) for _, entry in sorted(snapshot.entries.items())).encode()
    head = asdict(replace(snapshot, entries={}))
    del head["entries"], head["name"]
    head |= {"format": FORMAT, "files": len(snapshot.entries), "sha256": hashlib.sha256(lines).hexdigest()}
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(json.dumps(head).encode() + b"\n" + lines)
    flush(file)


def as_line(entry: Entry) -> str:
    """Returns an entry as a line of the list. Escapes preserve names that are not UTF-8."""
    return json.dumps(asdict(entry)) + "\n"


def read_snapshot(file: Path) -> Snapshot:
    """Reads the list of a snapshot, and checks it completely.

    Raises:
        StorageError: the list cannot be read, is damaged, or belongs to a later release of the program.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StorageError(file, f"cannot be read ({error.strerror}).", _REMEDY) from error
    first, _, lines = content.partition(b"\n")
    try:
        head = json.loads(first)
        if head["format"] != FORMAT:
            _refuse(file, f"has format {head['format']!r}, which this release of the program does not read.")
        if hashlib.sha256(lines).hexdigest() != head["sha256"]:
            _refuse(file, "is damaged: its checksum is wrong.")
        entries = {entry.path: entry for entry in map(Entry.from_json, map(json.loads, lines.splitlines()))}
        if len(entries) != head["files"]:
            _refuse(file, "is damaged: some of its lines are missing.")
        problems = {str(path): str(text) for path, text in dict(head["problems"]).items()}
        about = (str(head["made"]), str(head["studies"]), bool(head["pacs"]), bool(head["images"]))
        return Snapshot(file.name.removesuffix(".jsonl"), *about, problems, str(head.get("program", "")), entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:  # 1e999 is infinite
        raise StorageError(file, f"is not the list of a snapshot ({error}).", _REMEDY) from error


def _refuse(file: Path, problem: str) -> NoReturn:
    raise StorageError(file, problem, _REMEDY)
