"""Drafts: the unsaved label maps of people who edit in a viewer, one for each person and study.

`.medsam2_atlas/drafts/STUDY/PERSON.draft` contains one line of JSON about the draft, and the packed label map after it (see
`imaging.packed_labels`). `PERSON` is a hash of the person's id. A draft is no version: it is replaced at each save and removed
when its person signs off. It counts for the image that it was drawn on; it is neither shown nor used with another one.

Drafts are written under the lock of the studies, after a check that the image still exists. An erasure holds the same lock, so
a draft that is being saved cannot bring an erased study back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError, LimitError, MalformedError, NotFoundError, StorageError
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.packed_labels import unpack
from medsam2_atlas.storage.fingerprints import Fingerprints, same_image_as
from medsam2_atlas.storage.folder import DRAFTS
from medsam2_atlas.storage.lock import FolderLock
from medsam2_atlas.storage.safely import flush, flush_names, make_folder, temporary
from medsam2_atlas.storage.store import StudyStore

SUFFIX = ".draft"
_MAX_LINE = 4096
_NAME = re.compile(r"[0-9a-f]{32}\.draft")


@dataclass(frozen=True)
class Draft:
    """A stored draft.

    Attributes:
        file: its file.
        start: the byte of the file at which the packed label map begins.
        made: when it was saved, ISO 8601, UTC.
        base: tag and number of the version that the person began with; None if they began with an empty label map.
        image_sha256: the SHA-256 of the image that it was drawn on.
        shape: number of voxels (z, y, x).
        known: number of the newest final version that the person has seen; 0 if they have seen none.
    """

    file: Path
    start: int
    made: str
    base: tuple[str, int] | None
    image_sha256: str
    shape: tuple[int, int, int]
    known: int

    def labels(self) -> Any:
        """Returns the label map in the order of viewers: `[z, y, x]` uint8 organ numbers.

        Raises:
            StorageError: the file cannot be read, or has changed since it was saved.
        """
        try:
            return unpack(self.file, self.shape, organ_table().indices, self.start)
        except (OSError, MalformedError) as error:
            raise damaged(self.file, str(error)) from error


class Drafts:
    """The drafts of a set of studies. Safe for several processes and threads.

    Args:
        store: the store of the studies.
        person_bytes: max size of all drafts of one person, in bytes.
    """

    def __init__(self, store: StudyStore, person_bytes: int) -> None:
        self._store, self._person_bytes = store, person_bytes
        self._lock = FolderLock(store.work.path)

    def save(
        self,
        study: str,
        person: str,
        packed: Path,
        shape: tuple[int, int, int],
        base: tuple[str, int] | None = None,
        *,
        known: int | None = None,
        drawn_on: str = "",
    ) -> Draft:
        """Replaces a person's draft of a study. It is on disk when this method returns.

        Args:
            study: the name of the study.
            person: the unique id of the person.
            packed: the file with the packed label map, which the caller has checked.
            shape: number of voxels (z, y, x).
            base: see `Draft`.
            known: see `Draft`; None if the person's viewer does not tell it, so that it is derived from `base`.
            drawn_on: the SHA-256 of the image that the label map was drawn on; empty if that is the present one.

        Raises:
            NotFoundError: the study does not exist.
            ConflictError: the study has another image now; the earlier draft stays.
            LimitError: the person's drafts would exceed the limit; the earlier draft stays.
            StorageError: the draft cannot be written; the earlier one stays.
        """
        image, target = self._store.image(study).file, self._file(study, person)
        checksum, seen = self._store.checksum(study), _known(base) if known is None else known
        self.check_image(study, drawn_on)
        about = {"made": _now(), "base": base, "image_sha256": checksum, "shape": shape, "known": seen}
        head = json.dumps(about).encode() + b"\n"
        with self._errors(study):
            self._check_room(target, len(head) + packed.stat().st_size)
            self._store.work.folder(DRAFTS)  # refuses a link that leads elsewhere
            with self._lock.held():
                if not image.exists():  # asked of the disk: the index may be updated under the same lock only
                    raise NotFoundError(repr(study[:80]), "has no image any more.", "Reload the list of studies.")
                make_folder(target.parent)
                with temporary(target.parent, SUFFIX) as part:
                    with part.open("wb") as stream, packed.open("rb") as source:
                        stream.write(head)
                        shutil.copyfileobj(source, stream, 1 << 20)
                    flush(part)
                    os.replace(part, target)
                flush_names(target.parent)
        return _parsed(target, head)

    def find(self, study: str, person: str) -> Draft | None:
        """Returns a person's draft of a study; None if there is none.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the draft cannot be read.
        """
        self._store.image(study)
        return read_draft(self._file(study, person))

    def studies(self, person: str | None = None) -> frozenset[str]:
        """Returns the studies with drafts; see `studies_with_drafts`."""
        return studies_with_drafts(self._store, person)

    def usable(self, study: str, draft: Draft) -> bool:
        """Returns whether the study still has the image that a draft was drawn on.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the image cannot be read.
        """
        return self._has_image(study, draft.image_sha256)

    def check_image(self, study: str, drawn_on: str) -> None:
        """Checks that a study still has the image that a label map was drawn on. The same voxels in another file are the same.

        Args:
            study: the name of the study.
            drawn_on: the SHA-256 of that image; empty if it is unknown, which passes.

        Raises:
            NotFoundError: the study does not exist.
            ConflictError: the study has another image now.
            StorageError: the image cannot be read.
        """
        if drawn_on and not self._has_image(study, drawn_on):
            raise ConflictError(
                study, "has another image now.", "Nothing was saved. Load the case again, and draw on the new image."
            )

    def current(self, study: str, person: str) -> Draft:
        """Returns a person's draft of a study, to continue with.

        Raises:
            NotFoundError: there is no draft, or no such study.
            ConflictError: the draft was drawn on another image.
            StorageError: the draft cannot be read.
        """
        draft = self.find(study, person)
        if draft is None:
            raise NotFoundError(repr(study[:80]), "has no draft of yours.", "Load a version instead.")
        if not self.usable(study, draft):
            raise ConflictError(study, "has a draft of yours that was drawn on another image.", "Discard the draft.")
        return draft

    def remove(self, study: str, person: str) -> bool:
        """Removes a person's draft of a study; returns whether there was one.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the draft cannot be removed.
        """
        self._store.image(study)
        file = self._file(study, person)
        with self._errors(study), self._lock.held():
            try:
                file.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            try:
                file.parent.rmdir()
            except OSError:  # other people have drafts of this study
                flush_names(file.parent)
            return True

    def _has_image(self, study: str, checksum: str) -> bool:
        now = self._store.checksum(study)
        if now == checksum:
            return True
        return same_image_as(self._store.image(study).file, now, checksum, Fingerprints(self._store.work))

    def _check_room(self, target: Path, size: int) -> None:
        # A person can discard drafts of present studies only. Those of an image that was taken away wait for it to come back.
        found, images = (self._store.work.path / DRAFTS).glob(f"*/{target.name}"), self._store.images()
        others = [file for file in found if file != target and file.parent.name in images]
        total = sum(_size(file) for file in others)
        if total + size > self._person_bytes:
            raise LimitError(
                "drafts",
                f"of yours would take {(total + size) / 1e6:.1f} MB; max {self._person_bytes / 1e6:.0f} MB are kept, "
                f"and {len(others)} other studies have drafts of yours.",
                "Sign off or discard drafts of other studies.",
            )

    def _file(self, study: str, person: str) -> Path:
        return self._store.work.path / DRAFTS / study / _name_of(person)

    @contextmanager
    def _errors(self, study: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"the draft of {study}", f"cannot be changed: {error}.", "Nothing was changed.") from error


def studies_with_drafts(store: StudyStore, person: str | None = None) -> frozenset[str]:
    """Returns the studies of which a person has a draft; none if the folder of drafts cannot be read.

    Args:
        store: the store of the studies.
        person: the unique id of the person; None for anybody.
    """
    try:
        with os.scandir(store.work.path / DRAFTS) as folders:
            if person is None:
                return frozenset(folder.name for folder in folders if _has_draft(folder.path))
            name = _name_of(person)
            return frozenset(folder.name for folder in folders if (Path(folder.path) / name).exists())
    except OSError:  # nobody has saved a draft yet
        return frozenset()


def read_draft(file: Path) -> Draft | None:
    """Returns the draft in a file, without its label map; None if the file does not exist.

    Raises:
        StorageError: the file cannot be read, or is no draft.
    """
    try:
        with file.open("rb") as stream:
            return _parsed(file, stream.readline(_MAX_LINE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise damaged(file, str(error)) from error


def draft_problem(file: Path) -> str:
    """Returns why a file in the folder of drafts is not a whole draft; an empty string if it is one. Reads all of it."""
    if not _NAME.fullmatch(file.name):
        return "is not a draft."
    try:
        draft = read_draft(file)
        if draft is not None:
            draft.labels()
    except StorageError as error:
        return error.problem
    return ""


def damaged(file: Path, problem: str) -> StorageError:
    """Returns the error for a draft that cannot be read."""
    return StorageError(file, f"is a draft that cannot be read ({problem}).", "Discard the draft, or restore it from a backup.")


def _parsed(file: Path, head: bytes) -> Draft:
    try:
        about = stored_json(head)
        base = None if about["base"] is None else (str(about["base"][0]), int(about["base"][1]))
        z, y, x = (int(count) for count in about["shape"])
        known = int(about.get("known", _known(base)))  # drafts of earlier versions do not contain it
        return Draft(file, len(head), str(about["made"]), base, str(about["image_sha256"]), (z, y, x), known)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise damaged(file, f"its first line is not valid: {error}") from error


def _known(base: tuple[str, int] | None) -> int:
    """Returns the newest final version that a person has certainly seen, if only their base is known."""
    return base[1] if base is not None and base[0] == FINAL else 0


def _name_of(person: str) -> str:
    return f"{hashlib.sha256(person.encode()).hexdigest()[:32]}{SUFFIX}"


def _has_draft(folder: str) -> bool:
    try:
        with os.scandir(folder) as files:
            return any(file.name.endswith(SUFFIX) for file in files)
    except OSError:  # the draft was just removed
        return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
