"""A studies folder in which nothing is lost: images, label maps under tags, and every earlier version of a label map.

The files are authoritative; the index only makes queries fast. Each saved label map is stored twice: as a version that never
changes (`.medsam2_atlas/versions/TAG/STUDY/00001.nii.gz` with its record), and where MONAI Label looks for the current one
(`labels/TAG/STUDY.nii.gz`). A label file from another program is saved as a new version.

All changes are made under the folder's lock, which one process and thread holds at a time, and in a write transaction of the
index: a version is committed first, then the current file is replaced, then the index is updated. If a crash prevents the last
two steps, `refresh` completes them. Lock order: the folder's lock, then the lock of the database. Images are hashed and label
maps checked without these locks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError, InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.storage.acceptance import Person, accepted, returned
from medsam2_atlas.storage.changes import LabelChanges
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.contents import StudyContents
from medsam2_atlas.storage.entries import Image, Label, Saved, check_complete
from medsam2_atlas.storage.images import ImageChanges
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.open_folder import OpenFolder
from medsam2_atlas.storage.previous import OutdatedError, PreviousLabel
from medsam2_atlas.storage.rows import LabelRow, stamp_of

_TRIES = 3


class StudyStore(StudyContents):
    """An open studies folder whose label maps and images can be added, removed and restored without losing a version."""

    def __init__(self, path: Path, table: OrganTable | None = None, roots: Iterable[Path] = ()) -> None:
        """Opens a folder. `StudyContents` documents the arguments.

        Raises:
            StorageError: the folder cannot be used.
        """
        super().__init__(path, table, roots)
        folder = OpenFolder(self.path, self.work, self._index, self._roots, self._reconciler)
        self._image_changes, self._changes = ImageChanges(folder, self.erased), LabelChanges(folder)

    def save_label(
        self,
        study: str,
        tag: str,
        file: Path,
        *,
        author: str = "",
        author_id: str = "",
        info: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        confirmed: bool = True,
    ) -> Saved:
        """Saves a person's label map as a new version. It is on disk when this method returns.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            file: the label map to copy: NIfTI, NRRD, MHA or a segmentation of 3D Slicer.
            author: the name of the person; empty if unknown.
            author_id: the unique id of the person; empty if unknown.
            info: information to store with the version.
            expected_version: the number of the version that the change is based on, 0 for none. By default, any version is
                replaced.
            confirmed: whether a person has confirmed a `final` label map that is empty, lacks organs of the previous version,
                or replaces a label map that cannot be checked.

        Raises:
            NotFoundError: the study does not exist.
            InputError: the tag or the label map is not valid.
            ConflictError: the current version is not the expected one.
            ConfirmError: a person must confirm the label map first.
            StorageError: the label map cannot be written; nothing has changed.
        """
        new = Version(0, "", "", "person", author, info=dict(info or {}), author_id=author_id)
        return self._save(study, tag, file, new, expected_version, confirmed)

    def save_prediction(self, study: str, tag: str, file: Path, info: Mapping[str, Any] | None = None) -> Saved:
        """Saves a model's label map as a new version. It never replaces a person's label map.

        Args:
            study: the name of the study.
            tag: the name of the model.
            file: as in `save_label`.
            info: information to store with the version.

        Raises:
            NotFoundError: the study does not exist.
            InputError: the tag or the label map is not valid.
            ConflictError: the tag is `final`, or the current label map is a person's.
            StorageError: the label map cannot be written; nothing has changed.
        """
        return self._save(study, tag, file, Version(0, "", "", "model", info=dict(info or {})), None, True)

    def restore_label(self, study: str, tag: str, number: int, *, author: str = "", author_id: str = "") -> Saved:
        """Makes an earlier version the current one again, as a new version.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            number: the number of the earlier version.
            author: the name of the person who restores it; empty if unknown.
            author_id: the unique id of that person; empty if unknown.

        Raises:
            NotFoundError: the version does not exist.
            StorageError: the version cannot be written, or the earlier version's file has changed.
        """
        file, old = self._intact(study, tag, number)
        info = {**old.info, "restored_from": number}
        new = replace(old, origin="restored", author=author, author_id=author_id, made="", info=info)
        new = replace(new, doubled=(), accepted={}, returns=())
        with self._errors("be saved", f"the label of {study} under {tag}"):
            made = self._changes.save(study, tag, file, new, None, lambda *_: None)
        return Saved(self._label(made.row), made.before)

    def confirm_label(self, study: str, tag: str, *, author: str = "", author_id: str = "") -> Saved:
        """Saves the current label map as a new version that a person has confirmed for the current image.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            author: the name of the person; empty if unknown.
            author_id: the unique id of the person; empty if unknown.

        Raises:
            NotFoundError: there is no label map.
            InputError: the label map does not fit the image, or a model made it.
            ConflictError: the label map has changed meanwhile.
            StorageError: the version cannot be written.
        """
        label = self.label(study, tag)
        if label.version.origin == "model":
            raise InputError(study, f"has a model's label map under {tag}: it cannot be confirmed.", "Run the model again.")
        info = {**label.version.info, "confirmed": label.version.number}
        return self.save_label(
            study,
            tag,
            label.file,
            author=author,
            author_id=author_id,
            info=info,
            expected_version=label.version.number,
            confirmed=True,
        )

    def accept_label(self, study: str, tag: str, number: int, person: Person) -> Label:
        """Records that a reviewer accepts the current version of a `final` label map; see `acceptance`.

        Args:
            study: the name of the study.
            tag: the tag, which must be `final`.
            number: the number of the version that the reviewer has seen.
            person: the reviewer.

        Raises:
            NotFoundError: there is no label map.
            InputError: the tag is not `final`, or the reviewer has drawn the label map.
            ConflictError: another version is current, or the label map has a problem.
            StorageError: the acceptance cannot be written.
        """
        with self._errors("be accepted", f"the label of {study} under {tag}"):
            label = self.label(study, tag)
            made = self._changes.rewrite(study, tag, lambda row, all_: accepted(row, all_, number, person))
        return replace(label, version=made.row.version)

    def return_label(self, study: str, tag: str, number: int, person: Person, comment: str) -> Label:
        """Records that a reviewer returns the current version of a `final` label map to its author; see `acceptance`.

        Args:
            study: the name of the study.
            tag: the tag, which must be `final`.
            number: the number of the version that the reviewer has seen.
            person: the reviewer.
            comment: what the author should change.

        Raises:
            NotFoundError: there is no label map.
            InputError: the tag is not `final`, the reviewer has drawn the label map, or the comment is empty or too long.
            ConflictError: another version is current, or the review stage is off.
            StorageError: the comment cannot be written.
        """
        if not self.review.on:
            raise ConflictError(study, "cannot be returned: the review stage is off.", "Turn it on: --conf server_review=true.")
        with self._errors("be returned", f"the label of {study} under {tag}"):
            label = self.label(study, tag)
            made = self._changes.rewrite(study, tag, lambda row, all_: returned(row, all_, number, person, comment))
        return replace(label, version=made.row.version)

    def remove_label(self, study: str, tag: str, *, author: str = "", author_id: str = "") -> None:
        """Removes the current label map. Its versions stay and can be restored.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            author: the name of the person who removes it; empty if unknown.
            author_id: the unique id of that person; empty if unknown.

        Raises:
            NotFoundError: there is no label map.
            StorageError: the removal cannot be written; nothing has changed.
        """
        with self._errors("be removed", f"the label of {study} under {tag}"):
            self._changes.remove(study, tag, author, author_id)

    def update_label_info(
        self, study: str, tag: str, info: Mapping[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds information to the current version.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            info: the information to add.
            accept: called under the lock with the resulting version; raises to refuse it.

        Raises:
            NotFoundError: there is no label map.
            StorageError: the information cannot be written; nothing has changed.
        """
        with self._errors("be saved", f"the information about the label of {study} under {tag}"):
            self._changes.describe(study, tag, info, accept)

    def add_image(self, study: str, file: Path, info: Mapping[str, Any] | None = None) -> Image:
        """Adds an image. If the folder already contains the same image under that name, its file is kept.

        Args:
            study: the name of the study.
            file: the image to copy: NIfTI, NRRD or MHA.
            info: information to store with the image.

        Raises:
            InputError: the name or the file is not valid.
            ConflictError: the folder contains another image of that name.
            StorageError: the study was erased and is barred, or the image cannot be written; nothing has changed.
        """
        study, suffix = study_name(study), suffix_of(file.name)
        read_volume(file)
        with self._errors("be added", study):
            return self._image(self._image_changes.add(study, file, suffix, info or {}))

    def update_image_info(
        self, study: str, info: Mapping[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds information to an image.

        Args:
            study: the name of the study.
            info: the information to add.
            accept: called under the lock with the resulting information; raises to refuse it.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the information cannot be written; nothing has changed.
        """
        self.image(study)
        with self._errors("be saved", f"the information about {study}"):
            self._image_changes.describe(study, info, accept)

    def remove_image(self, study: str) -> Path:
        """Moves an image, its label maps and their versions into a new folder under `.medsam2_atlas/removed/`.

        Returns:
            The new folder.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: a file cannot be moved; nothing has changed.
        """
        image = self.image(study)
        with self._errors("be removed", study):
            return self._image_changes.remove(study, image.file)

    def drop_image(self, study: str, needed: Callable[[], bool] = lambda: False) -> bool:
        """Deletes the image of a study, without a copy: only for an image that can be fetched again from a PACS.

        Predictions of models stay on disk and belong to the study again once its image is back.

        Args:
            study: the name of the study.
            needed: returns whether somebody needs the image; called under the lock, right before the image is deleted.

        Returns:
            False, and nothing has changed, if the image is needed, or a person has a label map or a draft of the study.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the image cannot be deleted; nothing has changed.
        """
        image = self.image(study)
        with self._errors("be deleted", study):
            return self._image_changes.drop(study, image.file, needed)

    def _save(self, study: str, tag: str, file: Path, new: Version, expected: int | None, confirmed: bool) -> Saved:
        """Checks a label map without a lock, then makes it the next version. Repeats this if another version came first.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            file: the file to copy.
            new: the version so far.
            expected: the number of the version that the change is based on; None accepts any.
            confirmed: whether a person has confirmed that organs may be lost.
        """
        image = self.image(study)
        tag = tag if tag in self.tags(study) else tag_name(tag)
        if new.origin == "model" and tag == FINAL:
            raise ConflictError(
                study, "must be signed off by a person: models never write `final`.", "Save it under the model's name."
            )
        with self._errors("be saved", f"the label of {study} under {tag}"):
            stamp, image_sha256 = stamp_of(image.file), self._auditor.checksum(study)
            checked = check_label(file, image.file, self._table)
            self._auditor.remember(study)
            new = replace(new, sha256=sha256(file), image_sha256=image_sha256, organs=checked.organs)
            if checked.remarks:
                new = replace(new, info={**new.info, "remarks": list(checked.remarks)})
            asks = new.origin == "person" and tag == FINAL and not confirmed
            before: PreviousLabel | None = None

            def accept(row: LabelRow | None, failed: bool) -> None:
                if stamp_of(image.file) != stamp:
                    raise ConflictError(
                        study, "has an image that was replaced while the label map was checked.", "Send it again."
                    )
                if before is not None:
                    check_complete(study, before.organs_of(row, failed), checked, self._table)

            for _ in range(_TRIES):
                before = PreviousLabel(*self._current.find_or_failed(study, tag), self.path, image.file) if asks else None
                with contextlib.suppress(OutdatedError):
                    made = self._changes.save(study, tag, file, new, expected, accept)
                    return Saved(self._label(made.row), made.before)
        raise ConflictError(study, f"has a label under {tag} that keeps changing.", "Send it again.")
