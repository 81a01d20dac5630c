"""A folder of studies as MONAI Label lays it out, and the work folder that this project keeps for it.

Images lie at its top, label maps of the same names under `labels/TAG/`: `final` for what a person signed off, a model's
name for what that model made. Everything else that is kept for the studies lies in the work folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.resource import model_folder
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.imaging.kinds import not_taken, suffix_in
from medsam2_atlas.storage.links import LINK_PROBLEM, LINK_REMEDY, Roots

if TYPE_CHECKING:
    from medsam2_atlas.storage.store import StudyStore

log = logging.getLogger(__name__)

WORK_FOLDER = ".medsam2_atlas"
LABELS = "labels"
LONGEST_STUDY = 255 - len(".nii.gz")
"""Max bytes of a study's name: file systems allow 255, and its label map may be `.nii.gz`."""


@dataclass(frozen=True)
class Study:
    """A CT of a studies folder. final: its signed-off label map, if it counts."""

    name: str
    image: Path
    final: Path | None = None


@dataclass(frozen=True)
class WorkFolder:
    """What is kept for a set of studies besides images and labels.

    atlas/: versions of the grown atlas. unet_2d/, unet_3d/: training runs. registrations/: of studies to common spaces.
    reports/: how each prediction was made. learning.sqlite: what the choice of the next case rests on. versions/: all
    versions of all label maps. images/: what is kept with images. studies*.sqlite: indexes of a local folder, one for each
    set of roots. removed/: images that were removed. erased.json: hashes of erased studies. erasing/: erasures that are
    not finished. review.json: whether there is a review stage.
    """

    path: Path
    roots: tuple[Path, ...] = ()
    """Folders outside of the studies folder that symbolic links in it may lead to."""

    @classmethod
    def of(cls, studies: str | Path, roots: Iterable[Path] = ()) -> WorkFolder:
        """The work folder of a studies folder, or, for a DICOMweb URL, one in the model folder."""
        if is_url(studies):
            return cls(model_folder() / "studies" / hashlib.sha256(str(studies).strip().rstrip("/").encode()).hexdigest()[:16])
        return cls(Path(studies) / WORK_FOLDER, tuple(roots))

    def check_user(self) -> None:
        """Checks that this process' user may look into the work folder, where it exists.

        Raises:
            StorageError: it is for another user.
        """
        effective = os.access in os.supports_effective_ids
        if self.path.is_dir() and not os.access(self.path, os.R_OK | os.X_OK, effective_ids=effective):
            raise StorageError(
                self.path, "is for another user.", "Run this as the server's user, or see docs/operations.md (Set file modes)."
            )

    def folder(self, name: str) -> Path:
        """Returns a folder in the work folder, made if it does not exist and the disk can be written.

        Raises:
            StorageError: a symbolic link leads out of the studies folder.
        """
        folder = Roots(self.path.parent, self.roots).check(self.path / name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # writing into it raises the error; existing files can still be read
            log.debug("%s cannot be made: %s", folder, error)
        return folder


class StudyFolder:
    """Studies in a local folder. Files that are made in it get their modes from the process' umask; see `file_modes`."""

    def __init__(self, path: Path, roots: Iterable[Path] = ()) -> None:
        """
        Args:
            path: of the folder.
            roots: folders outside of it that symbolic links in it may lead to.

        Raises:
            InputError: not a folder.
        """
        if not path.is_dir():
            raise InputError(path, "is not a folder.", "Name the folder that holds the CTs.")
        self.path, self.roots = path, tuple(roots)
        self.work = WorkFolder.of(path, self.roots)

    @cached_property
    def store(self) -> StudyStore:
        """The store of the folder, which knows what its label maps were drawn on; opened when it is first asked for.

        Raises:
            StorageError: the folder cannot be used.
        """
        from medsam2_atlas.storage.store import StudyStore

        return StudyStore(self.path, roots=self.roots)

    def has_images(self) -> bool:
        """Returns whether an image file lies at its top."""
        return bool(self._found(self.path))

    def studies(self) -> list[Study]:
        """Returns all usable studies by name; see `StudyStore.studies`."""
        return self.store.studies()

    def labels(self, tag: str) -> dict[str, Path]:
        """Returns label maps of a tag by study, as they lie there. Unusable files are left out and logged."""
        return self._found(self.label_folder(tag), labels=True)

    def problems(self, tag: str) -> dict[str, str]:
        """Returns why image files, and label maps of a tag, are left out, by study."""
        found: dict[str, str] = {}
        for folder, labels in ((self.label_folder(tag), True), (self.path, False)):
            try:
                listing = list_files(folder, Roots(self.path, self.roots), labels=labels)
                found |= listing.left_out
            except (OSError, StorageError) as error:
                found[folder.name] = str(error)
        return found

    def label_folder(self, tag: str) -> Path:
        """Where label maps of a tag lie."""
        return self.path / LABELS / tag

    def _found(self, folder: Path, *, labels: bool = False) -> dict[str, Path]:
        return by_name(folder, Roots(self.path, self.roots), labels=labels)


@dataclass
class Listing:
    """Image files of a folder.

    Attributes:
        folder: the folder.
        files: names of files by study; several if they differ in their suffix alone.
        stamps: of each file, see `stamp`.
        problems: why a file is left out, by study.
        others: why files and folders that are of no kind that is read are left out, by name.
        twins: studies with several files: these with their stamps, as JSON; filled by `scan.judged`.
        notes: what users should know of studies that are not left out; filled by `scan.judged`.
    """

    folder: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """Returns why files and folders are left out, by study or name; without those that share the name of a study."""
        return {name: text for name, text in self.others.items() if name not in self.files} | self.problems


def list_files(folder: Path, roots: Roots, *, labels: bool = False) -> Listing:
    """Lists the image files of a folder; an unusable entry does not stop the listing.

    Args:
        folder: to list; nothing is found if it does not exist.
        roots: folders that links may lead to.
        labels: whether it is a folder of label files.

    Raises:
        StorageError: the folder is a link that leads elsewhere.
        OSError: the folder cannot be listed.
    """
    found = Listing(folder)
    try:
        entries = os.scandir(roots.check(folder))
    except (FileNotFoundError, NotADirectoryError):
        return found
    others = []
    with entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            suffix = suffix_in(entry.name, labels=labels)
            if entry.name.startswith("."):
                continue
            if not suffix:
                if encodable(entry.name) and entry.name != LABELS:
                    others.append(entry)
                continue
            study = entry.name[: -len(suffix)]
            if not encodable(entry.name):
                study = os.fsencode(study).decode("utf-8", "backslashreplace")
                found.problems[study] = "is left out: its name is not UTF-8. Rename the file."
                continue
            problem, state = _look(entry, roots)
            if problem:
                found.problems[study] = problem
            elif len(os.fsencode(study)) > LONGEST_STUDY and state is not None:
                found.problems[study] = f"is left out: its name has more than {LONGEST_STUDY} bytes. Rename the file."
            elif state is not None:
                found.files.setdefault(study, []).append(entry.name)
                found.stamps[entry.name] = stamp(state)
        found.others = not_taken(others)
    return found


def by_name(folder: Path, roots: Roots, *, labels: bool = False) -> dict[str, Path]:
    """Returns image files of a folder by name without suffix; empty if there is no such folder.

    Unusable files are left out and logged.

    Args:
        folder: to list.
        roots: folders that links may lead to.
        labels: whether it is a folder of label files.
    """
    try:
        found = list_files(folder, roots, labels=labels)
    except (OSError, StorageError) as error:
        log.warning("%s is left out: %s", folder, error)
        return {}
    for study, problem in found.problems.items():
        log.warning("%s in %s %s", study, folder, problem)
    return {study: folder / names[-1] for study, names in found.files.items()}


def stamp(state: os.stat_result) -> str:
    """Returns a text that changes with a file: size, modification and change times, and inode."""
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"


def _look(entry: os.DirEntry[str], roots: Roots) -> tuple[str, os.stat_result | None]:
    """Returns a problem, or the state of a file; neither if it is not a file or was just removed."""
    try:
        linked = entry.is_symlink()
        if linked and not roots.hold(entry.path):
            return f"{LINK_PROBLEM} {LINK_REMEDY}", None
        state = entry.stat()
    except FileNotFoundError:
        return ("is left out: it is a symbolic link to a file that does not exist.", None) if linked else ("", None)
    except OSError as error:
        return f"is left out: it cannot be looked at ({error.strerror}).", None
    return "", state if stat.S_ISREG(state.st_mode) else None


def encodable(text: str) -> bool:
    """Whether a text can be a name in files and replies: names on disk may hold bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
