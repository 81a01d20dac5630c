"""Changes images: each change is made completely or not at all, and the answer states which. See `changes` for label maps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import ConflictError, InputError, NotFoundError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.storage.erased import Erased
from medsam2_atlas.storage.fingerprints import same_image
from medsam2_atlas.storage.folder import DRAFTS
from medsam2_atlas.storage.names import LISTED
from medsam2_atlas.storage.open_folder import OpenFolder
from medsam2_atlas.storage.outcome import Outcome
from medsam2_atlas.storage.removal import set_aside
from medsam2_atlas.storage.rows import ImageRow, stamp_of
from medsam2_atlas.storage.safely import flush, make_folder, staged_copy, temporary, write_safely
from medsam2_atlas.storage.scan import label_files, tags_in

_TRIES = 3


@dataclass(frozen=True)
class _Compared:
    """An image of the folder that a new one was compared with.

    Attributes:
        file: its name.
        stamp: its stamp at that time.
        same: whether both contain the same voxels on the same grid.
    """

    file: str
    stamp: str
    same: bool


class ImageChanges:
    """Changes images of a studies folder.

    Args:
        folder: the open studies folder.
        erased: the list of erased studies, some of which are barred.
    """

    def __init__(self, folder: OpenFolder, erased: Erased) -> None:
        self._folder, self._erased = folder, erased

    def add(self, study: str, file: Path, suffix: str, info: Mapping[str, Any]) -> ImageRow:
        """Adds an image. If the folder already contains the same image under that name, its file is kept.

        Args:
            study: the name of the study.
            file: the file to copy.
            suffix: the suffix of the new file.
            info: the information to store with the image.

        Returns:
            The row of the image in the index.

        Raises:
            ConflictError: another image has that name.
            StorageError: the study was erased and is barred.
            OSError: the image cannot be written; nothing has changed.
        """
        for _ in range(_TRIES):
            compared = self._compare(study, file)
            added = self._folder.index.again(lambda: self._add(study, file, suffix, info, compared))  # noqa: B023 called at once
            if added is not None:
                return added
        raise ConflictError(study, "already has an image here, which keeps changing.", "Send the image again.")

    def describe(self, study: str, info: Mapping[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        """Adds information to an image.

        Args:
            study: the name of the study.
            info: the information to add.
            accept: called under the lock with the resulting information; raises to refuse it.

        Raises:
            NotFoundError: the study does not exist.
            OSError: the information cannot be written; nothing has changed.
        """
        self._folder.index.again(lambda: self._describe(study, info, accept))

    def remove(self, study: str, image: Path) -> Path:
        """Moves an image and everything that belongs to it into a folder for removed images.

        Returns:
            The new folder.

        Raises:
            OSError: a file cannot be moved; nothing has changed.
        """
        return self._folder.index.again(lambda: self._remove(study, image))

    def drop(self, study: str, image: Path, needed: Callable[[], bool]) -> bool:
        """Deletes the image of a study unless it is needed, or a person has a label map or a draft of the study.

        Args:
            study: the name of the study.
            image: the file of its image.
            needed: returns whether somebody needs the image; called under the lock.

        Returns:
            Whether it was deleted.

        Raises:
            OSError: the image cannot be deleted; nothing has changed.
        """
        return self._folder.index.again(lambda: self._drop(study, image, needed))

    def belongings(self, study: str) -> dict[Path, str]:
        """Returns the files and folders of a study besides its image, with their paths in the folder for removed images."""
        found: dict[Path, str] = {}
        versions = self._folder.work.path / "versions"
        for tag in sorted(versions.iterdir()) if versions.is_dir() else []:
            if (tag / study).is_dir():
                found[self._folder.reconciler.lineage(study, tag.name).folder] = f"versions/{tag.name}/{study}"
        for name in tags_in(self._folder.path, self._folder.roots):
            for file in label_files(self._folder.path, self._folder.roots, study, name):
                found[file] = f"labels/{name}/{file.name}"
        drafts = self._folder.work.path / DRAFTS / study
        return found | ({drafts: f"{DRAFTS}/{study}"} if drafts.is_dir() else {})

    def _compare(self, study: str, file: Path) -> _Compared | None:
        """Compares a new image with the existing one of that name. This decodes both, so the lock must not be held."""
        row = self._folder.index.image(study)
        if row is None:
            return None
        existing = self._folder.path / row.file
        stamp = stamp_of(existing)
        if not stamp:
            return None
        try:
            same = same_image(existing, file)
        except InputError:  # `file` was read before, so the existing image is the unreadable one
            same = False
        return _Compared(row.file, stamp, same)

    def _add(self, study: str, file: Path, suffix: str, info: Mapping[str, Any], compared: _Compared | None) -> ImageRow | None:
        """Adds an image; returns None if the folder contains an image of that name that `file` was not compared with."""
        target, made = self._folder.path / f"{study}{suffix}", Outcome[ImageRow](study)
        with made.guarded(self._folder.index), staged_copy(file, self._folder.path) as part:
            row = ImageRow(study, target.name, dict(info), sha256=sha256(part))
            with self._folder.index.writing() as rows:
                self._erased.check(study)
                listing = self._folder.reconciler.take_images(rows)
                before = rows.image(study)
                if before is None and study in listing.problems:
                    raise ConflictError(
                        study, f"is the name of an existing image, which {listing.problems[study]}", "Choose another name."
                    )
                if before is not None:
                    if compared is None or (compared.file, compared.stamp) != (before.file, before.stamp):
                        return None
                    if not compared.same:
                        raise ConflictError(study, "is already the name of another image.", "Choose another name.")
                    return before
                self._write_info(row)
                try:
                    os.replace(part, target)
                except OSError:
                    self._info_file(study).unlink(missing_ok=True)
                    raise
                made.value = row
                flush(self._folder.path)
                stamp = stamp_of(target)
                rows.put_image(replace(row, stamp=stamp, hashed=stamp))
        return made.get()

    def _describe(self, study: str, info: Mapping[str, Any], accept: Callable[[Mapping[str, Any]], None] | None) -> None:
        made = Outcome[ImageRow](study)
        with made.guarded(self._folder.index), self._folder.index.writing() as rows:
            row = rows.image(study)
            if row is None:
                raise NotFoundError(repr(study[:80]), "is not a study of this folder any more.", LISTED)
            row = replace(row, info={**row.info, **info})
            if accept is not None:
                accept(row.info)
            self._write_info(row)
            made.value = row
            rows.put_image(row)

    def _remove(self, study: str, image: Path) -> Path:
        made = Outcome[Path](study)
        with made.guarded(self._folder.index), self._folder.index.writing() as rows:
            files = json.loads(rows.twins().get(study, ("[]", None))[0])
            twins = {self._folder.path / name: name for name, _ in files if name != image.name}
            made.value = set_aside(self._folder.path, self._folder.work, image, twins | self.belongings(study))
            self._info_file(study).unlink(missing_ok=True)
            rows.drop_image(study)
        return made.get()

    def _drop(self, study: str, image: Path, needed: Callable[[], bool]) -> bool:
        made = Outcome[bool](study)
        with made.guarded(self._folder.index), self._folder.index.writing() as rows:
            if self._has_work(study) or needed():
                return False
            image.unlink(missing_ok=True)
            made.value = True
            self._info_file(study).unlink(missing_ok=True)
            rows.drop_image(study)
        return made.get()

    def _has_work(self, study: str) -> bool:
        """Returns whether a person has, or once had, a label map of a study, or has a draft of it."""
        tags = set()
        for path, name in self.belongings(study).items():
            kind, tag = name.split("/")[:2]
            if kind == DRAFTS:
                return True
            if kind == "versions":
                tags.add(tag)
                if any(version.origin != "model" for version in self._folder.reconciler.lineage(study, tag).versions()):
                    return True
            elif tag not in tags and path.exists():  # another program has put the file there, and it was not recorded yet
                return True
        return False

    def _info_file(self, study: str) -> Path:
        return self._folder.work.path / "images" / f"{study}.json"

    def _write_info(self, row: ImageRow) -> None:
        file = self._info_file(row.study)
        make_folder(self._folder.roots.check(file.parent))
        with temporary(file.parent, ".json") as part:
            write_safely(part, json.dumps(row.info, indent=2, ensure_ascii=False) + "\n")
            os.replace(part, file)
