"""A studies folder in which nothing is lost: images, label maps under tags, and every earlier version of a label map.

Files are the truth. A label map that was taken in lies twice: as a version that is never changed
(`.medsam2_atlas/versions/TAG/STUDY/00001.nii.gz` with its record), and where MONAI Label looks for the current one
(`labels/TAG/STUDY.nii.gz`). The index only makes asking quick. What other programs put into the folder is taken in as a
version of its own.

All changes are made under the index' write transaction, which is held by one process and thread at a time. In it, a
version is committed first, then the current file is replaced, then the index is told; whatever a crash leaves undone of
the last two is done by `refresh`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam2_atlas.errors import ConflictError, MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.files import sha256, write_json
from medsam2_atlas.labels import OrganTable, organ_table
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.entries import Image, Label, Saved, check_expected, same_image
from medsam2_atlas.storage.folder import FINAL, WorkFolder
from medsam2_atlas.storage.index import ImageRow, Index, LabelRow, Writer, stamp_of
from medsam2_atlas.storage.lineage import Lineage, Origin, Version, copy_safely, flush
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.reconcile import Reconciler
from medsam2_atlas.volume import read_volume


class StudyStore:
    """The folder. Safe for several processes and threads."""

    def __init__(self, path: Path, table: OrganTable | None = None) -> None:
        """Opens a folder, finishes what a crash left undone, and takes in what other programs have put there.

        Args:
            path: of the folder; made where it does not exist.
            table: organs that label maps may hold; those of `configs/labels.yaml` by default.

        Raises:
            StorageError: the folder or its index cannot be used.
        """
        self.path = Path(path).resolve()
        self.work = WorkFolder.of(self.path)
        self._table = table or organ_table()
        with self._errors("be opened"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._index = Index(self.work.folder(".") / "studies.sqlite")
        self._reconciler = Reconciler(self.path, self.work.path, self._index)
        self.refresh(thorough=True)

    # -- asking

    def images(self) -> dict[str, Image]:
        """All images by study."""
        self._reconciler.if_changed()
        return {row.study: self._image(row) for row in self._index.images().values()}

    def image(self, study: str) -> Image:
        """One image.

        Raises:
            NotFoundError: no such study.
        """
        row = self._index.image(study)
        if row is None:
            self._reconciler.if_changed()
            row = self._index.image(study)
        if row is None:
            raise NotFoundError(repr(study[:80]), "is no study of this folder.", "Ask /datastore for those there are.")
        return self._image(row)

    def labels(self) -> dict[str, dict[str, Label]]:
        """All current label maps by study and tag."""
        self._reconciler.if_changed()
        found: dict[str, dict[str, Label]] = {}
        for row in self._index.labels().values():
            found.setdefault(row.study, {})[row.tag] = self._label(row)
        return found

    def label(self, study: str, tag: str) -> Label:
        """The current label map of a study under a tag.

        Raises:
            NotFoundError: there is none.
        """
        row = self._index.label(study, tag)
        if row is None or not (self._tag_folder(tag) / row.file).exists():
            self._reconciler.if_changed()
            row = self._index.label(study, tag)
        if row is None:
            raise NotFoundError(repr(study[:80]), f"has no label under {tag[:80]!r}.")
        return self._label(row)

    def tags(self, study: str) -> list[str]:
        """Tags under which a study has or had a label.

        Raises:
            NotFoundError: no such study.
        """
        self.image(study)
        folders = self._lineage(study, FINAL).folder.parent.parent.glob("*")
        return sorted(folder.name for folder in folders if (folder / study).is_dir())

    def counts(self) -> tuple[int, dict[str, int]]:
        """How many images there are, and how many label maps under each tag."""
        self._reconciler.if_changed()
        return self._index.counts()

    def versions(self, study: str, tag: str) -> list[Version]:
        """All versions of a study's label map under a tag, the oldest first.

        Raises:
            NotFoundError: there never was one.
        """
        versions = self._lineage(study, tag).versions() if tag in self.tags(study) else []
        if not versions:
            raise NotFoundError(repr(study), f"has no label under {tag!r}.")
        return versions

    def version_file(self, study: str, tag: str, number: int) -> Path:
        """The file of a version, not to be changed.

        Raises:
            NotFoundError: no such version, or it is a removal.
        """
        found = next((v for v in self.versions(study, tag) if v.number == number and not v.removed), None)
        if found is None:
            raise NotFoundError(repr(study), f"has no version {number} of the label under {tag!r}.")
        return self._lineage(study, tag).file(found)

    # -- changing

    def save_label(
        self,
        study: str,
        tag: str,
        file: Path,
        *,
        origin: Origin = "person",
        author: str = "",
        info: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> Saved:
        """Takes a label map in as a new version. When this returns, it is on disk.

        Args:
            study: whose.
            tag: under which tag.
            file: NIfTI, NRRD or MHA; copied.
            origin: `person`, or `model`: a model never takes the place of what a person made, nor of anything `final`.
            author: who.
            info: kept with the version.
            expected_version: the version that the change rests on, 0 for none; without it, the newest is replaced whatever
                it is.

        Raises:
            NotFoundError: no such study.
            InputError: a name or file that cannot be taken.
            ConflictError: there is another version than the expected one, or one that this origin must not replace.
            StorageError: it cannot be written; nothing has changed then.
        """
        image = self.image(study)
        tag = tag if tag in self.tags(study) else tag_name(tag)
        if origin == "model" and tag == FINAL:
            raise ConflictError(study, "must be signed off by a person: models never write `final`.")
        check_label(file, image.file, self._table)
        new = Version(0, "", sha256(file), origin, author, info=dict(info or {}))
        return self._save(study, tag, file, new, expected_version)

    def restore_label(self, study: str, tag: str, number: int, *, author: str = "") -> Saved:
        """Makes an earlier version the current one again, as a new version.

        Raises:
            NotFoundError: no such version.
            StorageError: it cannot be written, or its file has changed.
        """
        file = self.version_file(study, tag, number)
        old = next(v for v in self.versions(study, tag) if v.number == number)
        if sha256(file) != old.sha256:
            raise StorageError(file, "has changed since it was saved.", "Choose another version.")
        info = {**old.info, "restored_from": number}
        return self._save(study, tag, file, Version(0, "", old.sha256, "restored", author, info=info), None)

    def remove_label(self, study: str, tag: str, *, author: str = "") -> None:
        """Takes the current label map away; its versions stay and can be restored.

        Raises:
            NotFoundError: there is none.
        """
        with self._errors(f"lose its label under {tag}", study), self._index.writing() as rows:
            row = rows.label(study, tag)
            if row is None:
                raise NotFoundError(repr(study[:80]), f"has no label under {tag[:80]!r}.")
            self._lineage(study, tag).commit(None, "", Version(0, "", "", "removed", author))
            (self._tag_folder(tag) / row.file).unlink(missing_ok=True)
            rows.drop_label(study, tag)

    def update_label_info(self, study: str, tag: str, info: Mapping[str, Any]) -> None:
        """Adds to what is kept with the current version.

        Raises:
            NotFoundError: there is no label.
        """
        with self._errors("be described", study), self._index.writing() as rows:
            row = rows.label(study, tag)
            if row is None:
                raise NotFoundError(repr(study[:80]), f"has no label under {tag[:80]!r}.")
            version = replace(row.version, info={**row.version.info, **info})
            self._lineage(study, tag).write(version)
            rows.put_label(replace(row, version=version))

    def add_image(self, study: str, file: Path, info: Mapping[str, Any] | None = None) -> Image:
        """Takes an image in. One that is there already is kept; another one of the same name is refused.

        Raises:
            InputError: a name or file that cannot be taken.
            ConflictError: another image of that name is there.
        """
        study, suffix = study_name(study), suffix_of(file.name)
        read_volume(file)
        with self._errors("be added", study), self._index.writing() as rows:
            self._reconciler.take_images(rows)
            before = rows.images().get(study)
            if before is not None:
                if not same_image(self.path / before.file, file):
                    raise ConflictError(study, "is the name of another image here.", "Choose another name.")
                return self._image(before)
            target = self.path / f"{study}{suffix}"
            copy_safely(file, target)
            row = ImageRow(study, target.name, dict(info or {}))
            self._write_info(row)
            rows.put_image(row)
        return self._image(row)

    def update_image_info(self, study: str, info: Mapping[str, Any]) -> None:
        """Adds to what is kept with an image.

        Raises:
            NotFoundError: no such study.
        """
        self.image(study)
        with self._errors("be described", study), self._index.writing() as rows:
            row = rows.images()[study]
            row = replace(row, info={**row.info, **info})
            self._write_info(row)
            rows.put_image(row)

    def remove_image(self, study: str) -> Path:
        """Moves an image, its labels and their versions into a folder of its own under `.medsam2_atlas/removed/`.

        Returns:
            That folder.

        Raises:
            NotFoundError: no such study.
        """
        image = self.image(study)
        with self._errors("be removed", study), self._index.writing() as rows:
            aside = self.work.folder(f"removed/{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}")
            os.replace(image.file, aside / image.file.name)
            for tag in sorted({row.tag for row in rows.labels().values() if row.study == study}):
                lineage, row = self._lineage(study, tag), rows.label(study, tag)
                (aside / "versions" / tag).mkdir(parents=True)
                if lineage.folder.exists():
                    os.replace(lineage.folder, aside / "versions" / tag / study)
                if row is not None:
                    (aside / "labels" / tag).mkdir(parents=True)
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(self._tag_folder(tag) / row.file, aside / "labels" / tag / row.file)
            self._info_file(study).unlink(missing_ok=True)
            rows.drop_image(study)
        return aside

    def refresh(self, thorough: bool = False) -> None:
        """Takes in what other programs have done to the folder.

        Args:
            thorough: also look through all versions for what a crash left undone.
        """
        with self._errors("be read"):
            self._reconciler.run(thorough=thorough)

    # -- parts

    def _save(self, study: str, tag: str, file: Path, new: Version, expected: int | None) -> Saved:
        lineage, suffix = self._lineage(study, tag), suffix_of(file.name)
        with self._errors(f"get a label under {tag}", study), lineage.staged(file) as staged, self._index.writing() as rows:
            self._reconciler.take_label(rows, study, tag)
            row = rows.label(study, tag)
            check_expected(study, tag, row.version if row else None, new, expected)
            if row and (row.version.sha256, row.version.author, row.version.origin) == (new.sha256, new.author, new.origin):
                return Saved(self._label(row))  # sent twice
            version = lineage.commit(staged, suffix, new)
            with self._reconciler.own_change(self._tag_folder(tag)):
                made = self._show(rows, lineage, study, tag, version, row)
        return Saved(self._label(made), row.version if row else None)

    def _show(
        self, rows: Writer, lineage: Lineage, study: str, tag: str, version: Version, before: LabelRow | None
    ) -> LabelRow:
        """Puts a committed version where MONAI Label looks for the current one."""
        file = self._tag_folder(tag) / f"{study}{suffix_of(version.file)}"
        copy_safely(lineage.file(version), file)
        if before and before.file != file.name:
            (self._tag_folder(tag) / before.file).unlink(missing_ok=True)
        row = LabelRow(study, tag, file.name, stamp_of(file), version)
        rows.put_label(row)
        return row

    def _image(self, row: ImageRow) -> Image:
        return Image(row.study, self.path / row.file, row.info)

    def _label(self, row: LabelRow) -> Label:
        return Label(row.study, row.tag, self._tag_folder(row.tag) / row.file, row.version)

    def _tag_folder(self, tag: str) -> Path:
        return self.path / "labels" / tag

    def _lineage(self, study: str, tag: str) -> Lineage:
        return self._reconciler.lineage(study, tag)

    def _info_file(self, study: str) -> Path:
        return self.work.path / "images" / f"{study}.json"

    def _write_info(self, row: ImageRow) -> None:
        file = self._info_file(row.study)
        file.parent.mkdir(exist_ok=True)
        write_json(row.info, file)
        flush(file)

    @contextlib.contextmanager
    def _errors(self, what: str, study: str = "") -> Iterator[None]:
        try:
            yield
        except MedSAM2AtlasError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StorageError(study or self.path, f"cannot {what}: {error}.", "Nothing was changed.") from error
