"""Stores the checksums that a verification has computed, line by line, so that a stopped verification resumes.

`verifying.jsonl` belongs to the run in progress, `verified.jsonl` to the last complete run. Comparison with the latter
reveals files that have changed without having been written. Paths may contain names of patients, so they are stored as digests.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import ConflictError, StorageError
from medsam2_atlas.base.files import opened, replacing

RUNNING, DONE = "verifying.jsonl", "verified.jsonl"

Sums = dict[str, tuple[str, str]]
"""The stamp and SHA-256 of files, by path or by the digest of the path."""


@dataclass
class Journal:
    """The journal of a verification."""

    _before: Sums
    _sums: Sums
    _stream: io.FileIO
    _folder: Path

    @classmethod
    @contextmanager
    def opened(cls, folders: Sequence[Path], *, again: bool) -> Iterator[Journal]:
        """Yields the journal, opened in the first folder that can be written.

        Args:
            folders: the possible folders; the last one is created if it is missing.
            again: whether to discard the checksums of a stopped run.

        Raises:
            ConflictError: another run is using the journal.
            StorageError: no folder can be written.
        """
        file, stream = _first_writable(folders)
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(file.parent, "is being verified by another process.", "Wait until it ends.") from None
            except OSError:  # the network drive supports no locks
                pass
            if again:
                stream.truncate(0)
            sums = _read(file)
            with contextlib.suppress(OSError):
                stream.write(b"\n" * bool(sums))  # a killed process may have written part of the last line
            yield cls(_read(file.with_name(DONE)), sums, stream, file.parent)

    def known(self, path: str) -> tuple[str, str] | None:
        """Returns the stamp and SHA-256 of a file that this run, or the run that it resumes, has read; else None."""
        return self._sums.get(_digest(path))

    def before(self, path: str) -> tuple[str, str] | None:
        """Returns the stamp and SHA-256 of a file in the last complete run; None if unknown."""
        return self._before.get(_digest(path))

    def add(self, path: str, stamp: str, checksum: str) -> None:
        """Records the stamp and SHA-256 of a file, which is given by its path relative to the verified folder."""
        self._sums[_digest(path)] = (stamp, checksum)
        with contextlib.suppress(OSError):  # a full disk: a later run computes the checksum again
            self._stream.write(json.dumps([_digest(path), stamp, checksum]).encode() + b"\n")

    def finish(self, sums: Mapping[str, tuple[str, str]]) -> None:
        """Stores the checksums of the complete run, and ends the run."""
        with contextlib.suppress(OSError):
            with replacing(self._folder / DONE) as part:
                part.touch(mode=0o600)
                part.write_text(
                    "".join(json.dumps([_digest(path), *known]) + "\n" for path, known in sums.items()), encoding="utf-8"
                )
            (self._folder / RUNNING).unlink(missing_ok=True)


def forget(folder: Path, paths: Iterable[str]) -> None:
    """Removes the records of files from the journals of verifications.

    Args:
        folder: the folder of the journals.
        paths: the paths of the files, relative to the verified folder.

    Raises:
        OSError: a journal cannot be read or written.
    """
    gone = {json.dumps(_digest(path)).encode() for path in paths}
    for file in (folder / RUNNING, folder / DONE):
        if not file.is_file():
            continue
        with opened(file) as stream:
            lines = stream.readlines()
        kept = [line for line in lines if line[1:].partition(b",")[0] not in gone]
        if len(kept) < len(lines):
            with replacing(file) as part:
                part.touch(mode=0o600)
                part.write_bytes(b"".join(kept))


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _first_writable(folders: Sequence[Path]) -> tuple[Path, io.FileIO]:
    problem: OSError | None = None
    for folder in folders:
        try:
            if folder == folders[-1]:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / RUNNING, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            return folder / RUNNING, io.FileIO(handle, "a")  # unbuffered: closing it writes nothing
        except OSError as error:
            problem = error
    raise StorageError(folders[-1], f"cannot be written ({problem}).", "Set $MEDSAM2_ATLAS_STATE to another folder.")


def _read(file: Path) -> Sums:
    found: Sums = {}
    with contextlib.suppress(OSError), opened(file) as stream:
        for line in stream:
            with contextlib.suppress(ValueError, TypeError):
                path, stamp, checksum = json.loads(line)
                found[str(path)] = (str(stamp), str(checksum))
    return found
