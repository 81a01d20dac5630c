"""What is verified, backed up and restored: a studies folder, or the work folder of a PACS server."""

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
"""Folder of a place in which a restore collects files before they take their places."""


@dataclass(frozen=True)
class Place:
    """Where everything that belongs to a set of studies lies.

    Attributes:
        name: absolute path of the studies folder, or the DICOMweb URL without name and password.
        key: digest of the path or URL.
        root: the folder that holds everything.
        studies: the studies folder: `root` itself, or, for a PACS, the store below it.
        work: where atlas, weights, reports and measures lie.
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
        """The place of a studies folder or a DICOMweb URL, whether it exists or not."""
        if is_url(studies.strip()):
            url = studies.strip().rstrip("/")
            root = WorkFolder.of(url).path
            return cls(_without_login(url), _digest(url), root, root / "store", root, True)
        root = Path(studies).resolve()
        return cls(str(root), _digest(str(root)), root, root, root / WORK_FOLDER, False)

    @classmethod
    def existing(cls, studies: str) -> Place:
        """The place of studies that are there.

        Raises:
            InputError: there is no such folder, or this machine keeps nothing for the URL.
            ConflictError: a restore was stopped there.
        """
        place = cls.of(studies)
        if (place.root / RESTORING).exists():
            raise ConflictError(place.name, "was not restored completely.", "Run the same `studies restore` again: it goes on.")
        if place.root.is_dir():
            return place
        if place.pacs:
            remedy = "Run this as the server's user, on its machine, with the URL that the server was started with."
            raise InputError(place.name, f"has no work folder here ({place.root}).", remedy)
        raise InputError(place.root, "is not a folder.", "Name the folder that holds the CTs.")

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
        """Keeps label maps and images from being changed while the block runs, which must be short.

        Raises:
            StorageError: another process has held the lock for a minute.
        """
        with FolderLock(self.studies / WORK_FOLDER).held():
            yield

    def relative(self, path: Path) -> str:
        """Returns a path below `root` as it is recorded."""
        return path.relative_to(self.root).as_posix()


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
