"""The versions of one study's label map under one tag, as files.

Each version consists of a label file `00001.nii.gz` and a record `00001.json` beside it. The record is written last, in one
step; from then on the version exists permanently. A version without a label file records a removal. Everything that needs disk
space is written and flushed before that step; a failure before it leaves nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import MAXYEAR, MINYEAR, datetime, timezone
from pathlib import Path
from typing import Any, Literal

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import sha256, text_of
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.storage.safely import flush_names, make_folder, staged_copy, temporary, write_safely

log = logging.getLogger(__name__)

Origin = Literal["person", "model", "found", "restored", "removed"]
"""The origin of a version. found: another program put the file into the studies folder."""

_RECORD = re.compile(r"(\d{5,})\.json")


@dataclass(frozen=True)
class Version:
    """One version of a label map.

    Attributes:
        number: its number, from 1.
        file: the name of its label file beside the record; empty for a removal.
        sha256: the SHA-256 of the label file.
        origin: see `Origin`.
        author: the name of the person who made it; empty if there is no login. Several people may have the same name.
        made: the time, ISO 8601, UTC.
        info: the information that the client sent with it.
        image_sha256: the SHA-256 of the image that it was drawn on; empty if unknown.
        organs: the numbers of the organs in the label map; None if unknown.
        doubled: the names of older files with different content that were found together with this one under the same tag;
            empty if there were none, or if all contain the same voxels.
        author_id: the unique id of the author, such as `token:kim`; empty if unknown, as in records of earlier releases.
        accepted: the reviewer's acceptance (`by`, `by_id` and `at`); empty if there is none. Only the review stage sets it.
        returns: the comments with which reviewers returned it (`by`, `by_id`, `at` and `comment`), the oldest first. They stay
            if the version is accepted later. Only the review stage sets them.
    """

    number: int
    file: str
    sha256: str
    origin: Origin
    author: str = ""
    made: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    image_sha256: str = ""
    organs: tuple[int, ...] | None = None
    doubled: tuple[str, ...] = ()
    author_id: str = ""
    accepted: Mapping[str, str] = field(default_factory=dict)
    returns: tuple[Mapping[str, str], ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Version:
        """Returns a version from its record. Records of earlier releases lack entries; those of later ones may have more.

        Raises:
            ValueError: the text is not a record.
        """
        content = stored_json(text)
        if not isinstance(content, dict) or not {"number", "file", "sha256", "origin"} <= set(content):
            raise ValueError("entries are missing")
        known = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
        if known.get("organs") is not None:
            known["organs"] = tuple(int(organ) for organ in known["organs"])
        known |= {name: _text(known[name]) for name in ("author", "author_id", "made", "image_sha256") if name in known}
        known["info"] = known["info"] if isinstance(known.get("info"), dict) else {}
        known["doubled"] = tuple(str(name) for name in known.get("doubled") or ())
        known["accepted"] = _texts(known.get("accepted"))
        returns = known.get("returns")
        known["returns"] = tuple(filter(None, map(_texts, returns))) if isinstance(returns, list) else ()
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """Returns the content of the record. Without a reviewer's entries, it is the record that earlier releases write."""
        content = asdict(self)
        for name in ("accepted", "returns"):
            if not content[name]:
                del content[name]
        return content

    @property
    def returned(self) -> Mapping[str, str]:
        """The newest entry of `returns` if the version is not accepted; empty if it is, or if nobody returned it."""
        return self.returns[-1] if self.returns and not self.accepted else {}

    @property
    def removed(self) -> bool:
        """Whether this version records a removal."""
        return not self.file


def now() -> str:
    """Returns the current time for a record: ISO 8601, UTC, with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Lineage:
    """The folder with all versions of one label map. Writers must hold the lock of the studies; readers need no lock.

    Args:
        folder: the folder of the versions; it may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """Returns the numbers of all versions in ascending order."""
        return sorted(int(match[1]) for name in self._names() if (match := _RECORD.fullmatch(name)))

    def versions(self) -> list[Version]:
        """Returns all versions in ascending order.

        Raises:
            StorageError: a record cannot be read.
        """
        return [self.version(number) for number in self.numbers()]

    def readable(self) -> list[Version]:
        """Returns all versions with a readable record in ascending order; logs the unreadable records."""
        found = []
        for number in self.numbers():
            try:
                found.append(self.version(number))
            except StorageError as error:
                log.error("%s", error)
        return found

    def version(self, number: int) -> Version:
        """Returns the version with a number.

        Raises:
            StorageError: the version does not exist, or its record cannot be read.
        """
        record = self._record(number)
        try:
            return Version.from_json(text_of(record))
        except FileNotFoundError as error:
            raise StorageError(self.folder, f"has no version {number}.", f"Choose from: {self.numbers()}.") from error
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                record, f"is not a readable record ({error}).", "Move it away: its label file stays and becomes a new version."
            ) from error

    def file(self, version: Version) -> Path:
        """Returns the label file of a version that is not a removal."""
        return self.folder / version.file

    @contextmanager
    def staged(self, source: Path) -> Iterator[Path]:
        """Yields a copy of a file in the folder, flushed to disk; removes it after the block unless `commit` has used it."""
        with staged_copy(source, self.folder) as part:
            yield part

    def commit(self, staged: Path | None, suffix: str, version: Version) -> Version:
        """Makes a staged file the next version. The version exists if and only if this method returns.

        Args:
            staged: the staged file; None for a removal.
            suffix: the suffix of the label file.
            version: the version; this method sets its number, the name of its file and, if empty, its time.

        Returns:
            The recorded version.

        Raises:
            OSError: the version cannot be written; nothing has changed.
        """
        make_folder(self.folder)
        number = self.next_number()
        made = replace(version, number=number, file=f"{number:05d}{suffix}" if staged else "", made=version.made or now())
        record, file = self._record(number), self.folder / made.file
        with temporary(self.folder, ".json") as part:
            write_safely(part, _as_text(made))
            try:
                if staged:
                    os.replace(staged, file)
                os.replace(part, record)
            except OSError:
                if staged:
                    with suppress(OSError):
                        file.unlink(missing_ok=True)
                raise
        flush_names(self.folder)
        return made

    def write(self, version: Version) -> None:
        """Replaces the record of a version."""
        with temporary(self.folder, ".json") as part:
            write_safely(part, _as_text(version))
            os.replace(part, self._record(version.number))
        flush_names(self.folder)

    def intact(self, version: Version) -> bool:
        """Returns whether the label file of a version exists and is unchanged."""
        try:
            return not version.removed and sha256(self.file(version)) == version.sha256
        except OSError:
            return False

    def tidy(self, seconds: float) -> None:
        """Removes remains of crashed writers: temporary copies, and label files without a record.

        Args:
            seconds: the min age of a file to remove.
        """
        numbers = set(self.numbers())
        for file in list(self.folder.iterdir()):
            number = file.name.split(".", 1)[0]
            leftover = file.name.startswith(".part-") or (number.isdecimal() and int(number) not in numbers)
            try:
                if leftover and time.time() - file.stat().st_mtime > seconds:
                    file.unlink()
            except OSError as error:
                log.warning("%s is left over and cannot be removed (%s)", file, error.strerror)

    def next_number(self) -> int:
        """Returns the next free number, which exceeds that of every file in the folder, with or without a record."""
        taken = [int(number) for name in self._names() if (number := name.split(".", 1)[0]).isdecimal()]
        return max(taken, default=0) + 1

    def _names(self) -> list[str]:
        try:
            return [file.name for file in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"


def time_of(text: str) -> datetime | None:
    """Returns a time of a record in UTC; None if it is not valid. A time without a zone is UTC.

    The first and the last year of the calendar are not valid, because such a time may not exist in other time zones.

    >>> str(time_of("2026-11-27T12:00:00+02:00")), time_of("0001-01-01T00:00:00Z")
    ('2026-11-27 10:00:00+00:00', None)
    """
    try:
        made = datetime.fromisoformat(text.replace("Z", "+00:00"))
        found = made.astimezone(timezone.utc) if made.tzinfo else made.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None
    return found if MINYEAR < found.year < MAXYEAR else None


def _text(content: object) -> str:
    """Returns a text; empty for null, as some programs write it."""
    return "" if content is None else str(content)


def _texts(content: object) -> dict[str, str]:
    """Returns the entries of a JSON object as texts; empty if it is not an object."""
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _as_text(version: Version) -> str:
    return json.dumps(version.as_json(), indent=1, ensure_ascii=False)
