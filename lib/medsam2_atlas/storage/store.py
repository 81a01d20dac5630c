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
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError, InputError, MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.storage.acceptance import Person, ReviewStage, accepted, held_back
from medsam2_atlas.storage.audit import Auditor
from medsam2_atlas.storage.before import Before, OvertakenError
from medsam2_atlas.storage.changes import LabelChanges
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.current import CurrentLabels
from medsam2_atlas.storage.entries import Image, Label, Saved, check_complete
from medsam2_atlas.storage.erased import Erased
from medsam2_atlas.storage.fingerprints import Fingerprints
from medsam2_atlas.storage.folder import Study, WorkFolder
from medsam2_atlas.storage.images import ImageChanges
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.lineage import Lineage, Origin, Version
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.reconcile import Reconciler
from medsam2_atlas.storage.rows import ImageRow, LabelRow, stamp_of
from medsam2_atlas.storage.safely import make_folder, temporary, write_safely
from medsam2_atlas.storage.scan import reason

log = logging.getLogger(__name__)

_TRIES = 3


class StudyStore:
    """The folder. Safe for several processes and threads."""

    def __init__(self, path: Path, table: OrganTable | None = None, roots: Iterable[Path] = ()) -> None:
        """Opens a folder, finishes what a crash left undone, and takes in what other programs have put there.

        On a full or read-only disk, existing studies are still served.

        Args:
            path: of the folder; made if it does not exist.
            table: organs that label maps may hold; those of `configs/labels.yaml` by default.
            roots: folders outside of it that symbolic links in it may lead to.

        Raises:
            StorageError: the folder cannot be used.
        """
        self.path = Path(path).resolve()
        self._roots = Roots(self.path, roots)
        self.work = WorkFolder.of(self.path, roots)
        self._table = table or organ_table()
        with self._errors("be opened"):
            self.path.mkdir(parents=True, exist_ok=True)
        self.work.check_user()
        # Stores with other roots see other studies: each set has its own index, so that they do not undo each other's.
        name = f"studies-{self._roots.key}.sqlite" if self._roots.key else "studies.sqlite"
        self.review, self.erased = ReviewStage(self.work), Erased(self.work)
        self._index = Index(self.work.folder(".") / name)
        self._reconciler = Reconciler(self.path, self.work, self._index, self._roots)
        self._index.fill = lambda: self._reconciler.run(thorough=True)
        self._image_changes = ImageChanges(self.path, self.work, self._index, self._roots, self._reconciler, self.erased)
        self._changes = LabelChanges(self.path, self.work, self._index, self._roots, self._reconciler)
        fingerprints = Fingerprints(self.work)
        self._auditor = Auditor(self.path, self._index, self._reconciler.settler, self._table, fingerprints)
        self._current = CurrentLabels(self.path, self._index, self._reconciler, self._auditor, self._look)
        self._opened = True  # what the folder held before is still to be compared
        with self._errors("be opened"):
            self._index.ready()

    @property
    def index_file(self) -> Path:
        """The file of the index; it may be deleted at any time."""
        return self._index.file

    # -- asking

    def images(self) -> dict[str, Image]:
        """All images by study."""
        self._look()
        return {row.study: self._image(row) for row in self._index.images().values()}

    def image(self, study: str) -> Image:
        """One image.

        Raises:
            NotFoundError: no such study.
        """
        row = self._index.image(study)
        if row is None or not (self.path / row.file).exists():
            self._look()
            row = self._index.image(study)
        if row is None:
            problem = self._index.problems().get((study, ""))
            if problem:
                raise NotFoundError(repr(study[:80]), problem)
            raise NotFoundError(repr(study[:80]), "is no study of this folder.", "Ask /datastore for those there are.")
        return self._image(row)

    def studies(self) -> list[Study]:
        """Returns the studies whose image can be used, by name, with the `final` label maps that count."""
        images, labels, problems = self.images(), self.labels(), self.problems()
        found = []
        for study, image in sorted(images.items()):
            final = labels.get(study, {}).get(FINAL)
            if "image" not in problems.get(study, {}):
                found.append(Study(study, image.file, final.file if final is not None and not final.problem else None))
        return found

    def labels(self) -> dict[str, dict[str, Label]]:
        """All current label maps by study and tag."""
        self._look()
        found: dict[str, dict[str, Label]] = {}
        for row in self._index.labels().values():
            found.setdefault(row.study, {})[row.tag] = self._label(row)
        return found

    def label(self, study: str, tag: str) -> Label:
        """Returns the current label map of a study under a tag. A file that was overwritten in place becomes a new version.

        Raises:
            NotFoundError: there is none.
        """
        with self._errors("be read", study):
            row = self._current.find(study, tag)
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
        self._look()
        return self._index.counts()

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns problems of images (`image`) and label maps (their tag), by study; also of files that are left out.

        `note` is the key of what should be known of an image that can be used.
        """
        self._look()
        found: dict[str, dict[str, str]] = {}
        notes = {study for (study, tag), (_, bad) in self._index.unsettled().items() if not tag and not bad}
        for (study, tag), text in sorted(self._index.problems().items()):
            found.setdefault(study, {})[tag or ("note" if study in notes else "image")] = text
        return found

    def writable(self) -> str:
        """Returns why labels cannot be saved; empty if they can. Writes, flushes and removes a small file to test this."""
        try:
            make_folder(self.work.path)
            with temporary(self.work.folder("."), ".txt") as part:
                write_safely(part, "x" * 4096)
        except OSError as error:
            return f"labels cannot be saved: {error.strerror or error}"
        except StorageError as error:
            return f"labels cannot be saved: {reason(error)}"
        return ""

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
            StorageError: it has changed since it was saved, or its record cannot be read.
        """
        return self._intact(study, tag, number)[0]

    # -- changing

    def save_label(
        self,
        study: str,
        tag: str,
        file: Path,
        *,
        origin: Origin = "person",
        author: str = "",
        author_id: str = "",
        info: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        confirmed: bool = True,
    ) -> Saved:
        """Takes a label map in as a new version. When this returns, it is on disk.

        Args:
            study: whose.
            tag: under which tag.
            file: NIfTI, NRRD, MHA or a segmentation of 3D Slicer; copied.
            origin: `person`, or `model`: a model never takes the place of what a person made, nor of anything `final`.
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
            ConflictError: there is another version than the expected one, or one that this origin must not replace.
            ConfirmError: it has to be confirmed first.
            StorageError: it cannot be written; nothing has changed then.
        """
        image = self.image(study)
        tag = tag if tag in self.tags(study) else tag_name(tag)
        if origin == "model" and tag == FINAL:
            raise ConflictError(study, "must be signed off by a person: models never write `final`.")
        with self._errors(f"get a label under {tag}", study):
            stamp, image_sha256 = stamp_of(image.file), self._auditor.checksum(study)
            checked = check_label(file, image.file, self._table)
            self._auditor.remember(study)
            new = Version(0, "", sha256(file), origin, author, info=dict(info or {}), author_id=author_id)
            new = replace(new, image_sha256=image_sha256, organs=checked.organs)
            if checked.remarks:
                new = replace(new, info={**new.info, "remarks": list(checked.remarks)})
            asks = origin == "person" and tag == FINAL and not confirmed
            before: Before | None = None

            def accept(row: LabelRow | None, failed: bool) -> None:
                if stamp_of(image.file) != stamp:
                    raise ConflictError(study, "got another image while the label map was checked.", "Send it again.")
                if before is not None:
                    check_complete(study, before.organs_of(row, failed), checked, self._table)

            for _ in range(_TRIES):
                before = Before(*self._current.find_or_failed(study, tag), self.path, image.file) if asks else None
                with contextlib.suppress(OvertakenError):
                    made = self._changes.save(study, tag, file, new, expected_version, accept)
                    return Saved(self._label(made.row), made.before)
        raise ConflictError(study, f"has a label under {tag} that keeps changing.", "Send it again.")

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

    def held_back(self, label: Label) -> str:
        """Returns why models do not learn from a label map; empty if they do: if it is `final`, has no problem, and was
        accepted where the review stage is on."""
        return held_back(label, self.review)

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

    def refresh(self, thorough: bool = False) -> None:
        """Takes in what other programs have done to the folder.

        Args:
            thorough: also look through all versions for what a crash left undone.
        """
        with self._errors("be read"):
            self._index.ready()
            self._index.again(lambda: self._reconciler.run(thorough=thorough))
            self._compare_images()

    def audit(self, stop: threading.Event | None = None) -> int:
        """Checks label maps that other programs have put into the folder, and computes checksums of their images; this is slow.

        Args:
            stop: ends the work after the current file.

        Returns:
            How many label maps were checked; `problems` holds their problems.
        """
        with self._errors("be checked"):
            self._look()
            if self._auditor.compare_all(stop):
                self._index.again(self._reconciler.run)
            count = self._auditor.run(stop)
            self._auditor.compare_all(stop)
            return count

    # -- parts

    def _look(self) -> None:
        """Takes in changes of the folder."""
        with self._errors("be read"):
            if self._index.again(self._reconciler.if_changed) or self._opened:
                self._opened = False
                self._compare_images()

    def _compare_images(self) -> None:
        """Compares changed images and several files of one study, for a short time."""
        if self._auditor.compare_images():
            self._index.again(self._reconciler.run)

    def _intact(self, study: str, tag: str, number: int) -> tuple[Path, Version]:
        lineage = self._lineage(study, tag) if tag in self.tags(study) else None
        version = lineage.version(number) if lineage is not None and number in lineage.numbers() else None
        if lineage is None or version is None or version.removed:
            raise NotFoundError(repr(study), f"has no version {number} of the label under {tag!r}.")
        if not lineage.intact(version):
            raise StorageError(
                lineage.file(version), "is missing or has changed since it was saved.", "Choose another version."
            )
        return lineage.file(version), version

    def _image(self, row: ImageRow) -> Image:
        return Image(row.study, self.path / row.file, row.info)

    def _label(self, row: LabelRow) -> Label:
        return Label(row.study, row.tag, self.path / row.file, row.version, row.problem, row.unsure)

    def _lineage(self, study: str, tag: str) -> Lineage:
        return self._reconciler.lineage(study, tag)

    @contextlib.contextmanager
    def _errors(self, what: str, study: str = "") -> Iterator[None]:
        try:
            yield
        except MedSAM2AtlasError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StorageError(study or self.path, f"cannot {what}: {error}.", "Nothing was changed.") from error
