"""A studies folder in MONAI Label's layout, and the project's work folder in it.

Images are at its top level. Label maps of the same names are under `labels/TAG/`: the tag `final` is for label maps that a
person has signed off, and the name of a model is the tag of its predictions. The work folder contains everything else
about the studies.
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
from medsam2_atlas.imaging.kinds import suffix_in, unused_images
from medsam2_atlas.storage.links import LINK_PROBLEM, LINK_REMEDY, Roots

if TYPE_CHECKING:
    from medsam2_atlas.storage.store import StudyStore

log = logging.getLogger(__name__)

WORK_FOLDER = ".medsam2_atlas"
LABELS = "labels"
DRAFTS = "drafts"
CLAIMS, FIGURES = "claims.sqlite", "team.sqlite"
MAX_STUDY_BYTES = 255 - len(".nii.gz")
"""Max length of a study's name in bytes: file systems allow 255, and its label map may end in `.nii.gz`."""


@dataclass(frozen=True)
class Study:
    """A CT of a studies folder.

    Attributes:
        name: the name of the study.
        image: the image file.
        final: its signed-off label map; None if there is none, or if it has a problem.
    """

    name: str
    image: Path
    final: Path | None = None


@dataclass(frozen=True)
class WorkFolder:
    """The folder with everything stored about a set of studies besides images and current label maps.

    atlas/: versions of the grown atlas. unet_2d/, unet_3d/: training runs. registrations/: registrations of studies to common
    spaces. reports/: the report of each prediction. learning.sqlite: the measures for the choice of the next case. versions/:
    all versions of all label maps. drafts/: unsaved label maps of people. images/: information about images. studies*.sqlite:
    indexes of a local folder, one for each set of roots. removed/: removed images. erased.json: hashes of erased studies.
    erasing/: unfinished erasures. review.json: whether the review stage is on. assignments.json: the person who should annotate
    a study. claims.sqlite: who works on which study now; only the server uses it. team.sqlite: the figures of all
    versions for the team's figures.
    """

    path: Path
    roots: tuple[Path, ...] = ()
    """Folders outside of the studies folder that symbolic links in it may lead to."""

    @classmethod
    def of(cls, studies: str | Path, roots: Iterable[Path] = ()) -> WorkFolder:
        """Returns the work folder of a studies folder, or, for a DICOMweb URL, a folder in the model folder."""
        if is_url(studies):
            return cls(model_folder() / "studies" / hashlib.sha256(str(studies).strip().rstrip("/").encode()).hexdigest()[:16])
        return cls(Path(studies) / WORK_FOLDER, tuple(roots))

    def check_user(self) -> None:
        """Checks that the user of this process may read the work folder if it exists.

        Raises:
            StorageError: the work folder belongs to another user.
        """
        effective = os.access in os.supports_effective_ids
        if self.path.is_dir() and not os.access(self.path, os.R_OK | os.X_OK, effective_ids=effective):
            raise StorageError(
                self.path,
                "belongs to another user.",
                "Run this as the server's user, or see docs/operations.md (Set file modes).",
            )

    def folder(self, name: str) -> Path:
        """Returns a folder in the work folder; creates it if it is missing and the disk can be written.

        Raises:
            StorageError: a symbolic link leads out of the studies folder.
        """
        folder = Roots(self.path.parent, self.roots).check(self.path / name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # writing into the folder will raise the error; existing files can still be read
            log.debug("%s cannot be created: %s", folder, error)
        return folder


class StudyFolder:
    """The studies in a local folder. The process' umask gives new files their modes; see `file_modes`.

    Args:
        path: the folder.
        roots: folders outside of it that symbolic links in it may lead to.

    Raises:
        InputError: the path is not a folder.
    """

    def __init__(self, path: Path, roots: Iterable[Path] = ()) -> None:
        if not path.is_dir():
            raise InputError(path, "is not a folder.", "Name the folder that contains the CTs.")
        self.path, self.roots = path, tuple(roots)
        self.work = WorkFolder.of(path, self.roots)

    @cached_property
    def store(self) -> StudyStore:
        """The store of the folder, opened on first use. It checks that label maps belong to the current images.

        Raises:
            StorageError: the folder cannot be used.
        """
        from medsam2_atlas.storage.store import StudyStore

        return StudyStore(self.path, roots=self.roots)

    def has_images(self) -> bool:
        """Returns whether the top level of the folder contains an image file."""
        return bool(self._found(self.path))

    def studies(self) -> list[Study]:
        """Returns all usable studies, sorted by name; see `StudyStore.studies`."""
        return self.store.studies()

    def labels(self, tag: str) -> dict[str, Path]:
        """Returns the label files of a tag by study, without checks by the store. Unusable files are left out and logged."""
        return self._found(self.label_folder(tag), labels=True)

    def problems(self, tag: str) -> dict[str, str]:
        """Returns by study why image files, and label maps of a tag, are left out."""
        found: dict[str, str] = {}
        for folder, labels in ((self.label_folder(tag), True), (self.path, False)):
            try:
                listing = list_files(folder, Roots(self.path, self.roots), labels=labels)
                found |= listing.left_out
            except (OSError, StorageError) as error:
                found[folder.name] = str(error)
        return found

    def label_folder(self, tag: str) -> Path:
        """Returns the folder of the label maps of a tag."""
        return self.path / LABELS / tag

    def _found(self, folder: Path, *, labels: bool = False) -> dict[str, Path]:
        return by_name(folder, Roots(self.path, self.roots), labels=labels)


@dataclass
class Listing:
    """The image files of a folder.

    Attributes:
        folder: the folder.
        files: the names of files by study; several if they differ only in their suffix.
        stamps: the stamp of each file by its name, see `stamp`.
        problems: why a file is left out, by study.
        unsupported: why files and folders of unsupported types are left out, by name.
        twins: for studies with several files, the files with their stamps as JSON; filled by `scan.resolve_twins`.
        notes: remarks on studies that are not left out, by study; filled by `scan.resolve_twins`.
    """

    folder: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """Why files and folders are left out, by study or name; excludes those with the name of a study."""
        return {name: text for name, text in self.unsupported.items() if name not in self.files} | self.problems


def list_files(folder: Path, roots: Roots, *, labels: bool = False) -> Listing:
    """Lists the image files of a folder; an unusable entry does not stop the listing.

    Args:
        folder: the folder to list. A missing folder gives an empty listing.
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
    unsupported = []
    with entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            suffix = suffix_in(entry.name, labels=labels)
            if entry.name.startswith("."):
                continue
            if not suffix:
                if encodable(entry.name) and entry.name != LABELS:
                    unsupported.append(entry)
                continue
            study = entry.name[: -len(suffix)]
            if not encodable(entry.name):
                study = os.fsencode(study).decode("utf-8", "backslashreplace")
                found.problems[study] = "is left out: its name is not UTF-8. Rename the file."
                continue
            problem, state = _look(entry, roots)
            if problem:
                found.problems[study] = problem
            elif len(os.fsencode(study)) > MAX_STUDY_BYTES and state is not None:
                found.problems[study] = f"is left out: its name has more than {MAX_STUDY_BYTES} bytes. Rename the file."
            elif state is not None:
                found.files.setdefault(study, []).append(entry.name)
                found.stamps[entry.name] = stamp(state)
        found.unsupported = unused_images(unsupported)
    return found


def by_name(folder: Path, roots: Roots, *, labels: bool = False) -> dict[str, Path]:
    """Returns the image files of a folder by their name without suffix; empty if the folder does not exist.

    Unusable files are left out and logged.

    Args:
        folder: the folder to list.
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
    """Returns a text that changes whenever the file changes: size, modification and change times in ns, and inode."""
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"


def _look(entry: os.DirEntry[str], roots: Roots) -> tuple[str, os.stat_result | None]:
    """Returns a problem, or the state of a file; an empty text and None if it is not a file or was just removed."""
    try:
        linked = entry.is_symlink()
        if linked and not roots.contain(entry.path):
            return f"{LINK_PROBLEM} {LINK_REMEDY}", None
        state = entry.stat()
    except FileNotFoundError:
        return ("is left out: it is a symbolic link to a file that does not exist.", None) if linked else ("", None)
    except OSError as error:
        return f"is left out: its state cannot be read ({error.strerror}).", None
    return "", state if stat.S_ISREG(state.st_mode) else None


def encodable(text: str) -> bool:
    r"""Returns whether a text can be encoded as UTF-8. Names on disk may contain other bytes, which Python escapes.

    >>> encodable("Müller"), encodable("M\udcfcller")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
