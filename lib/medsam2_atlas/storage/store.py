"""A studies folder in which nothing is lost: images, label maps under tags, and every earlier version of a label map.

Files are the truth. A label map that was taken in lies twice: as a version that is never changed
(`.medsam2_atlas/versions/TAG/STUDY/00001.nii.gz` with its record), and where MONAI Label looks for the current one
(`labels/TAG/STUDY.nii.gz`). The index only makes asking quick. What other programs put into the folder is taken in as a
version of its own.

All changes are made under the folder's lock, which one process and thread holds at a time, and in a write transaction of the
index: a version is committed first, then the current file is replaced, then the index is updated. If a crash prevents the last
two steps, `refresh` completes them. Lock order: the folder's lock, the database's. Checksums of images and checks of label maps
are made without these locks.
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
from medsam2_atlas.storage.acceptance import Person, accepted
from medsam2_atlas.storage.before import Before, OvertakenError
from medsam2_atlas.storage.changes import LabelChanges
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.contents import StudyContents
from medsam2_atlas.storage.entries import Image, Label, Saved, check_complete
from medsam2_atlas.storage.images import ImageChanges
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.open_folder import OpenFolder
from medsam2_atlas.storage.rows import LabelRow, stamp_of

_TRIES = 3


class StudyStore(StudyContents):
    """An open studies folder, and the changes of it: label maps and images come, go and return, and no version is lost."""

    def __init__(self, path: Path, table: OrganTable | None = None, roots: Iterable[Path] = ()) -> None:
        """Opens a folder; see `StudyContents`.

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
        """Takes a person's label map in as a new version. When this returns, it is on disk.

        Args:
            study: whose.
            tag: under which tag.
            file: NIfTI, NRRD, MHA or a segmentation of 3D Slicer; copied.
            author: name of the person; empty if unknown.
            author_id: tells the person from others of that name.
            info: kept with the version.
            expected_version: the version that the change rests on, 0 for none; without it, the newest is replaced whatever
                it is.
            confirmed: whether a person has confirmed a `final` label map that is empty, or lacks organs of the previous
                version, or replaces a label map that cannot be checked.

        Raises:
            NotFoundError: no such study.
            InputError: a name or file that cannot be taken.
            ConflictError: there is another version than the expected one.
            ConfirmError: it has to be confirmed first.
            StorageError: it cannot be written; nothing has changed then.
        """
        new = Version(0, "", "", "person", author, info=dict(info or {}), author_id=author_id)
        return self._save(study, tag, file, new, expected_version, confirmed)

    def save_prediction(self, study: str, tag: str, file: Path, info: Mapping[str, Any] | None = None) -> Saved:
        """Takes a model's label map in as a new version; it never takes the place of what a person made.

        Args:
            study: whose.
            tag: name of the model.
            file: as in `save_label`.
            info: kept with the version.

        Raises:
            NotFoundError: no such study.
            InputError: a name or file that cannot be taken.
            ConflictError: the tag is `final`, or a person's label map is there.
            StorageError: it cannot be written; nothing has changed then.
        """
        return self._save(study, tag, file, Version(0, "", "", "model", info=dict(info or {})), None, True)

    def restore_label(self, study: str, tag: str, number: int, *, author: str = "", author_id: str = "") -> Saved:
        """Makes an earlier version the current one again, as a new version.

        Raises:
            NotFoundError: no such version.
            StorageError: it cannot be written, or its file has changed.
        """
        file, old = self._intact(study, tag, number)
        info = {**old.info, "restored_from": number}
        new = replace(old, origin="restored", author=author, author_id=author_id, made="", info=info, doubled=(), accepted={})
        with self._errors(f"get a label under {tag}", study):
            made = self._changes.save(study, tag, file, new, None, lambda *_: None)
        return Saved(self._label(made.row), made.before)

    def confirm_label(self, study: str, tag: str, *, author: str = "", author_id: str = "") -> Saved:
        """Makes the current label map a new version that a person has confirmed for the image that is there now.

        Raises:
            NotFoundError: there is none.
            InputError: it does not fit the image, or a model made it.
            ConflictError: it has changed meanwhile.
            StorageError: it cannot be written.
        """
        label = self.label(study, tag)
        if label.version.origin == "model":
            raise InputError(study, f"has a model's label map under {tag}: people do not confirm it.", "Run the model again.")
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

        Raises:
            NotFoundError: there is none.
            InputError: another tag, or the person has drawn it.
            ConflictError: it is not the current version, or does not count.
            StorageError: it cannot be written.
        """
        with self._errors("be accepted", study):
            label = self.label(study, tag)
            made = self._changes.rewrite(study, tag, lambda row, all_: accepted(row, all_, number, person))
        return replace(label, version=made.row.version)

    def remove_label(self, study: str, tag: str, *, author: str = "", author_id: str = "") -> None:
        """Takes the current label map away; its versions stay and can be restored.

        Raises:
            NotFoundError: there is none.
        """
        with self._errors(f"lose its label under {tag}", study):
            self._changes.remove(study, tag, author, author_id)

    def update_label_info(
        self, study: str, tag: str, info: Mapping[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds to what is kept with the current version.

        Args:
            study: whose.
            tag: under which tag.
            info: to add.
            accept: called under the lock with the version as it would be; raises if it must not be.

        Raises:
            NotFoundError: there is no label.
        """
        with self._errors("be described", study):
            self._changes.describe(study, tag, info, accept)

    def add_image(self, study: str, file: Path, info: Mapping[str, Any] | None = None) -> Image:
        """Takes an image in. One that is there already is kept; another one of the same name is refused.

        Raises:
            InputError: a name or file that cannot be taken.
            ConflictError: another image of that name is there.
        """
        study, suffix = study_name(study), suffix_of(file.name)
        read_volume(file)
        with self._errors("be added", study):
            return self._image(self._image_changes.add(study, file, suffix, info or {}))

    def update_image_info(
        self, study: str, info: Mapping[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds to what is kept with an image.

        Args:
            study: whose.
            info: to add.
            accept: called under the lock with all that would be kept; raises if it must not be.

        Raises:
            NotFoundError: no such study.
        """
        self.image(study)
        with self._errors("be described", study):
            self._image_changes.describe(study, info, accept)

    def remove_image(self, study: str) -> Path:
        """Moves an image, its labels and their versions into a folder of its own under `.medsam2_atlas/removed/`.

        Returns:
            That folder.

        Raises:
            NotFoundError: no such study.
        """
        image = self.image(study)
        with self._errors("be removed", study):
            return self._image_changes.remove(study, image.file)

    def _save(self, study: str, tag: str, file: Path, new: Version, expected: int | None, confirmed: bool) -> Saved:
        """Checks a label map without a lock, then makes it the next version; again if it was overtaken meanwhile.

        Args:
            study: whose.
            tag: under which tag.
            file: to copy.
            new: what is known of the version.
            expected: number of the version that the change rests on.
            confirmed: whether a person has confirmed that organs may get lost.
        """
        image = self.image(study)
        tag = tag if tag in self.tags(study) else tag_name(tag)
        if new.origin == "model" and tag == FINAL:
            raise ConflictError(study, "must be signed off by a person: models never write `final`.")
        with self._errors(f"get a label under {tag}", study):
            stamp, image_sha256 = stamp_of(image.file), self._auditor.checksum(study)
            checked = check_label(file, image.file, self._table)
            self._auditor.remember(study)
            new = replace(new, sha256=sha256(file), image_sha256=image_sha256, organs=checked.organs)
            if checked.remarks:
                new = replace(new, info={**new.info, "remarks": list(checked.remarks)})
            asks = new.origin == "person" and tag == FINAL and not confirmed
            before: Before | None = None

            def accept(row: LabelRow | None, failed: bool) -> None:
                if stamp_of(image.file) != stamp:
                    raise ConflictError(study, "got another image while the label map was checked.", "Send it again.")
                if before is not None:
                    check_complete(study, before.organs_of(row, failed), checked, self._table)

            for _ in range(_TRIES):
                before = Before(*self._current.find_or_failed(study, tag), self.path, image.file) if asks else None
                with contextlib.suppress(OvertakenError):
                    made = self._changes.save(study, tag, file, new, expected, accept)
                    return Saved(self._label(made.row), made.before)
        raise ConflictError(study, f"has a label under {tag} that keeps changing.", "Send it again.")
