"""Lists the files of a place for a backup or a verification.

Files that the program recreates by itself are left out: indexes, pictures, claims of running processes, unfinished files. Links
are followed only into folders that the studies' links may lead to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medsam2_atlas.archive.place import RESTORING, Place
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import LINK_PROBLEM, LINK_REMEDY, WORK_FOLDER, stamp

Kind = Literal["version", "label", "image", "database", "other"]
"""The kind of a file. `image` includes files of a fetched DICOM series; `version` is a label file or record in `versions/`."""

_UNFINISHED = re.compile(r"\.(part|old)-.*")
_MADE_AGAIN = re.compile(
    r"studies[^/]*\.sqlite|claims\.sqlite|unreadable\.json|claims|pictures|verified\.jsonl|verifying\.jsonl|.*\.sqlite-(journal|wal|shm)"
    r"|.*\.damaged"
)
"""Names in a work folder that are left out, since the program recreates the files."""


@dataclass(frozen=True)
class Item:
    """A file of a place.

    Attributes:
        path: its path relative to the place's root.
        kind: its kind.
        stamp: its stamp at the time of the listing; empty if it was not read.
        size: its size in bytes at the time of the listing.
    """

    path: str
    kind: Kind
    stamp: str = ""
    size: int = 0


@dataclass
class Listing:
    """The files of a place, by their path relative to the place's root.

    Attributes:
        items: the files.
        problems: why folders and files cannot be listed, by path.
        left_out: why links are not followed, by path; the server does not follow them either.
        unfinished: paths of temporary files and folders, which a writer has not renamed yet.
    """

    items: dict[str, Item] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def list_place(place: Place, *, images: bool = True) -> Listing:
    """Lists the files of a place.

    Versions and current label maps are listed under the lock of the studies, so that they belong together.

    Args:
        place: the place to list.
        images: whether images and fetched DICOM series are listed.

    Raises:
        StorageError: another process has held the lock for too long.
    """
    found = Listing()
    walk = _Walk(place, found)
    labels = place.studies / "labels"
    with place.locked():
        walk.names(place.versions)
        walk.files(labels)
    for path, item in list(found.items.items()):
        if item.kind == "version":
            found.items[path] = walk.measured(item)
    walk.files(place.root, excluded=(place.versions, labels))
    if not images:
        found.items = {path: item for path, item in found.items.items() if item.kind != "image"}
    return found


class _Walk:
    """Lists folders of a place recursively."""

    def __init__(self, place: Place, found: Listing) -> None:
        self._place, self._found = place, found
        self._works = {place.work, place.studies / WORK_FOLDER}

    def names(self, folder: Path) -> None:
        """Lists the names in a folder without reading the files' states, which is fast even on a network drive."""
        self._walk(folder, (), frozenset(), measure=False)

    def files(self, folder: Path, excluded: tuple[Path, ...] = ()) -> None:
        """Lists a folder with sizes and stamps, except the excluded folders."""
        self._walk(folder, excluded, frozenset(), measure=True)

    def measured(self, item: Item) -> Item:
        """Returns an item with its size. Its stamp is read when it is copied."""
        try:
            return Item(item.path, item.kind, size=(self._place.root / item.path).stat().st_size)
        except OSError:
            return item

    def _walk(self, folder: Path, excluded: tuple[Path, ...], above: frozenset[tuple[int, int]], *, measure: bool) -> None:
        if not self._place.roots.contain(folder):
            self._found.left_out[self._place.relative(folder)] = f"{LINK_PROBLEM} {LINK_REMEDY}"
            return
        try:
            state = folder.stat()
            identity = (state.st_dev, state.st_ino)
            if identity in above:  # a link to a folder that contains it
                return
            with os.scandir(folder) as entries:
                inner = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._found.problems[self._place.relative(folder)] = f"cannot be listed ({error.strerror}). Check its permissions."
            return
        for entry in inner:
            path = Path(entry.path)
            if path in excluded or self._skipped(folder, entry.name):
                continue
            if entry.is_symlink() and not self._followed(path):
                continue
            if self._is_folder(entry):
                self._walk(path, excluded, above | {identity}, measure=measure)
            else:
                self._add(entry, measure)

    def _skipped(self, folder: Path, name: str) -> bool:
        if _UNFINISHED.fullmatch(name):
            self._found.unfinished.append(self._place.relative(folder / name))
            return True
        if name in (RESTORING, "lost+found"):
            return True
        if folder in self._works and _MADE_AGAIN.fullmatch(name):
            return True
        return folder == self._place.studies and name.startswith(".") and name != WORK_FOLDER

    def _followed(self, link: Path) -> bool:
        if not self._place.roots.contain(link):
            self._found.left_out[self._place.relative(link)] = f"{LINK_PROBLEM} {LINK_REMEDY}"
            return False
        if not link.exists():
            self._found.left_out[self._place.relative(link)] = "is left out: it is a symbolic link to a missing file."
            return False
        return True

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:
            return False

    def _add(self, entry: os.DirEntry[str], measure: bool) -> None:
        path = self._place.relative(Path(entry.path))
        kind = kind_of(self._place, path)
        if not measure:
            self._found.items[path] = Item(path, kind)
            return
        try:
            state = entry.stat()
        except FileNotFoundError:  # it has just been removed
            return
        except OSError as error:
            self._found.problems[path] = f"cannot be examined ({error.strerror}). Check its permissions."
            return
        if stat.S_ISREG(state.st_mode):
            self._found.items[path] = Item(path, kind, stamp(state), state.st_size)


def kind_of(place: Place, path: str) -> Kind:
    """Returns the kind of a file, given by its path relative to the place's root."""
    store = "store/" if place.pacs else ""
    if path.startswith(f"{store}{WORK_FOLDER}/versions/"):
        return "version"
    if path.startswith(f"{store}labels/"):
        return "label"
    if path.endswith(".sqlite"):
        return "database"
    removed = f"{store}{WORK_FOLDER}/removed/"
    parts = path.removeprefix(removed if path.startswith(removed) else store).split("/")
    depth = 2 if path.startswith(removed) else 1
    if place.pacs and path.startswith("series/"):
        return "image"
    return "image" if path.startswith(store) and len(parts) == depth and suffix_in(parts[-1]) else "other"


def lineages(items: Iterable[str], place: Place) -> dict[tuple[str, str], list[str]]:
    """Returns the sorted file names of versions, by tag and study.

    Args:
        items: paths relative to the place's root; other files are skipped.
        place: the place.
    """
    start, found = place.relative(place.versions) + "/", dict[tuple[str, str], list[str]]()
    for path in items:
        parts = path.removeprefix(start).split("/")
        if path.startswith(start) and len(parts) == 3:
            found.setdefault((parts[0], parts[1]), []).append(parts[2])
    return {key: sorted(names) for key, names in sorted(found.items())}
