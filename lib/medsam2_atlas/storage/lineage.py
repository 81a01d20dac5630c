"""The versions of one study's label map under one tag, as files.

Each version is a label file `00001.nii.gz` and a record `00001.json` beside it. The record is written last, in one step:
a version exists from then on, and for good. A version without a file says that the label was removed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from medsam2_atlas.errors import StorageError
from medsam2_atlas.files import replacing, sha256

log = logging.getLogger(__name__)

Origin = Literal["person", "model", "found", "restored", "removed"]
"""Who or what made a version. found: the file lay in the studies folder, put there by another program."""

_RECORD = re.compile(r"(\d{5,})\.json")


@dataclass(frozen=True)
class Version:
    """One version of a label map.

    number: from 1. file: its name beside the record; empty for a removal. sha256: of the file. origin: see `Origin`.
    author: who made it, empty where there is no login. made: ISO time, UTC. info: what the client sent along.
    """

    number: int
    file: str
    sha256: str
    origin: Origin
    author: str = ""
    made: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def removed(self) -> bool:
        """Whether this version is the label's absence."""
        return not self.file


def now() -> str:
    """The time of a record."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Lineage:
    """A folder of versions. Writers must hold the lock of the studies; readers need none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """Numbers of all versions, rising."""
        return sorted(int(match[1]) for name in self._names() if (match := _RECORD.fullmatch(name)))

    def versions(self) -> list[Version]:
        """All versions, rising.

        Raises:
            StorageError: a record that cannot be read.
        """
        return [self.version(number) for number in self.numbers()]

    def readable(self) -> list[Version]:
        """All versions whose records can be read, rising; the others are logged."""
        found = []
        for number in self.numbers():
            try:
                found.append(self.version(number))
            except StorageError as error:
                log.error("%s", error)
        return found

    def version(self, number: int) -> Version:
        """One version.

        Raises:
            StorageError: there is none of that number, or its record cannot be read.
        """
        record = self._record(number)
        try:
            return Version(**json.loads(record.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise StorageError(self.folder, f"has no version {number}.", f"Choose from: {self.numbers()}.") from error
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                record, f"is not a readable record ({error}).", "Move it away: its label file stays, and becomes a new version."
            ) from error

    def file(self, version: Version) -> Path:
        """The label file of a version that is no removal."""
        return self.folder / version.file

    @contextmanager
    def staged(self, source: Path) -> Iterator[Path]:
        """A copy of a file in the folder, safe on disk; removed when the block ends, unless `commit` has taken it."""
        _make_folder(self.folder)
        part = self.folder / f".part-{os.getpid()}-{os.urandom(4).hex()}{source.name[-8:]}"
        try:
            shutil.copyfile(source, part)
            flush(part)
            yield part
        finally:
            part.unlink(missing_ok=True)

    def commit(self, staged: Path | None, suffix: str, version: Version) -> Version:
        """Makes a staged file the next version; without one, a removal. Numbers and names of files are set here.

        Returns:
            The version as it is recorded.
        """
        _make_folder(self.folder)
        number = self.next_number()
        made = replace(version, number=number, file=f"{number:05d}{suffix}" if staged else "", made=version.made or now())
        if staged:
            os.replace(staged, self.folder / made.file)
        self.write(made)
        return made

    def write(self, version: Version) -> None:
        """Writes a record, or replaces it by one with other information."""
        record = self._record(version.number)
        with replacing(record) as part:
            part.write_text(json.dumps(asdict(version), indent=1, ensure_ascii=False), encoding="utf-8")
            flush(part)
        flush(self.folder)

    def tidy(self, seconds: float) -> None:
        """Removes what writers that died have left, if it is older than that: copies, and label files without a record."""
        numbers = set(self.numbers())
        for file in list(self.folder.iterdir()):
            number = file.name.split(".", 1)[0]
            leftover = file.name.startswith(".part-") or (number.isdecimal() and int(number) not in numbers)
            if leftover and time.time() - file.stat().st_mtime > seconds:
                file.unlink()

    def next_number(self) -> int:
        """One more than any number that a file here has, with or without a record."""
        taken = [int(number) for name in self._names() if (number := name.split(".", 1)[0]).isdecimal()]
        return max(taken, default=0) + 1

    def _names(self) -> list[str]:
        try:
            return [file.name for file in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"


def copy_safely(source: Path, target: Path) -> str:
    """Puts a copy in the target's place in one step, safe on disk; its SHA-256."""
    _make_folder(target.parent)
    with replacing(target) as part:
        shutil.copyfile(source, part)
        flush(part)
        checksum = sha256(part)
    flush(target.parent)
    return checksum


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    """Makes a folder, and sees to it that its name is on disk too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)
