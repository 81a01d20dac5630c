"""Large arguments of tasks, such as the mean image of a group: written to the shared disk once, and read once by each worker.

A task only has the file and its checksum. Otherwise the scheduler would read each argument of each task into its memory. A file
is read only if it has that checksum, because reading it can run code, and the checksum came over the encrypted connection.
"""

from __future__ import annotations

import hashlib
import pickle
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.base.processes import ProcessMark

MIN_BYTES = 500_000
"""Smaller arguments are sent with the task."""
_PREFIX = "arguments-"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Differs between machines, and changes when one starts again. All machines have the same inode of the process namespace."""


@dataclass(frozen=True)
class Stored:
    """An argument in a file.

    Attributes:
        file: the file.
        sha256: SHA-256 of its content.
    """

    file: Path
    sha256: str


class ArgumentStore:
    """Stores the arguments of one client's tasks. Each object is pickled once, so it must not change meanwhile."""

    def __init__(self, work: Path) -> None:
        """Creates nothing yet.

        Args:
            work: folder on the disk that all machines of the cluster share.
        """
        self._work = work
        self._folder: Path | None = None
        self._known: dict[int, tuple[Any, Any]] = {}

    def packed(self, function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
        """Returns a function and its arguments, the large ones replaced by their files, as bytes that the scheduler passes on.

        Raises:
            StorageError: the disk cannot be written.
        """
        return pickle.dumps((function, tuple(self._stored(one) for one in arguments)))

    def clear(self) -> None:
        """Removes all files of this store, and forgets its arguments."""
        self._known.clear()
        folder, self._folder = self._folder, None
        with suppress(OSError):
            if folder is not None:
                remove_folder(folder, self._work)

    def close(self) -> None:
        """Removes all files, also those of killed processes of this machine."""
        self.clear()
        own = f"{_PREFIX}{_boot()}-"
        with suppress(OSError):
            for folder in self._work.glob(f"{own}*"):
                mark = ProcessMark.parse(folder.name.removeprefix(own).partition("-")[0])
                if mark is not None and mark.here and not mark.alive:
                    remove_folder(folder, self._work)
            self._work.rmdir()  # fails if a queue's logs or another command's files are in it

    def _stored(self, value: Any) -> Any:
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        content = pickle.dumps(value)
        found = self._written(content) if len(content) >= MIN_BYTES else value
        self._known[id(value)] = (value, found)  # with the object itself, so that no other one gets its id
        return found

    def _written(self, content: bytes) -> Stored:
        digest = hashlib.sha256(content).hexdigest()
        folder = self._folder or self._work / f"{_PREFIX}{_boot()}-{ProcessMark.own()}-{uuid.uuid4().hex}"
        file = folder / digest
        try:
            if self._folder is None:
                folder.mkdir(mode=0o700, parents=True)
                self._folder = folder
            file.write_bytes(content)
        except OSError as error:
            raise StorageError(file, f"cannot be written ({error.strerror}).", "Free some space on the shared disk.") from error
        return Stored(file, digest)


def _boot() -> str:
    """Returns the number of this machine's start as hexadecimal digits; without one, a new number, so that nothing is swept."""
    try:
        return _BOOT.read_text(encoding="utf-8").strip().replace("-", "")
    except OSError:
        return uuid.uuid4().hex


def unpacked(content: bytes) -> Any:
    """Calls what `ArgumentStore.packed` has packed, on a worker; returns its result.

    Raises:
        StorageError: an argument cannot be read on this machine.
    """
    function, arguments = pickle.loads(content)
    return function(*(_read(one.file, one.sha256) if isinstance(one, Stored) else one for one in arguments))


@lru_cache(maxsize=4)
def _read(file: Path, digest: str) -> Any:
    try:
        content = file.read_bytes()
    except OSError as error:
        remedy = "Let all machines of the cluster share the disk of the outputs."
        raise StorageError(file, f"cannot be read by a worker ({error.strerror}).", remedy) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise StorageError(file, "was changed by somebody else.", "Use a folder that others cannot write.")
    return pickle.loads(content)
