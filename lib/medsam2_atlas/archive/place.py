"""The place to verify, back up or restore: a studies folder, or the work folder of a PACS server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from medsam2_atlas.base.errors import ConflictError, InputError
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.storage import WORK_FOLDER, FolderLock, Roots, WorkFolder

RESTORING = ".restoring"
"""The folder in a place where a restore collects files before it moves them to their final paths."""


@dataclass(frozen=True)
class Place:
    """The folders with all files of a set of studies.

    Attributes:
        name: the absolute path of the studies folder, or the DICOMweb URL without user name and password.
        key: a digest of the path or URL.
        root: the folder that contains all files.
        studies: the studies folder: `root` itself, or, for a PACS, the store below it.
        work: the work folder, with atlas, weights, reports and measures.
        pacs: whether the studies come from a PACS.
    """

    name: str
    key: str
    root: Path
    studies: Path
    work: Path
    pacs: bool

    @classmethod
    def of(cls, studies: str) -> Place:
        """Returns the place of a studies folder or a DICOMweb URL. It may not exist."""
        if is_url(studies.strip()):
            url = studies.strip().rstrip("/")
            root = WorkFolder.of(url).path
            return cls(_without_login(url), _digest(url), root, root / "store", root, True)
        root = Path(studies).resolve()
        return cls(str(root), _digest(str(root)), root, root, root / WORK_FOLDER, False)

    @classmethod
    def existing(cls, studies: str) -> Place:
        """Returns the place of existing studies.

        Raises:
            InputError: the folder does not exist, or this machine has no work folder for the URL.
            ConflictError: the place contains an incomplete restore.
        """
        place = cls.of(studies)
        if (place.root / RESTORING).exists():
            raise ConflictError(place.name, "was not restored completely.", "Run the same `studies restore` again to resume.")
        if place.root.is_dir():
            return place
        if place.pacs:
            remedy = "Run this as the server's user, on its machine, with the URL that the server was started with."
            raise InputError(place.name, f"has no work folder here ({place.root}).", remedy)
        raise InputError(place.root, "is not a folder.", "Name the folder that contains the CTs.")

    @property
    def versions(self) -> Path:
        """The folder with all versions of all label maps."""
        return self.studies / WORK_FOLDER / "versions"

    @cached_property
    def roots(self) -> Roots:
        """The folders that links in the place may lead to."""
        return Roots(self.root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks label maps and images against changes for the duration of the block, which must be short.

        Raises:
            StorageError: another process has held the lock for a minute.
        """
        with FolderLock(self.studies / WORK_FOLDER).held():
            yield

    def relative(self, path: Path) -> str:
        """Returns a path relative to `root`, with slashes, as it is recorded."""
        return path.relative_to(self.root).as_posix()


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
