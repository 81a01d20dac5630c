"""The contents of a studies folder: images, label maps under tags, and their versions.

Opening the folder completes changes that a crash interrupted. Changes by other programs are recorded before each answer.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medsam2_atlas.base.background import Background
from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.kept import Kept, KeptEach
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.storage.acceptance import ReviewStage, held_back
from medsam2_atlas.storage.assignments import Assignments
from medsam2_atlas.storage.audit import Auditor
from medsam2_atlas.storage.current import CurrentLabels
from medsam2_atlas.storage.entries import Image, Label
from medsam2_atlas.storage.erased import Erased
from medsam2_atlas.storage.fingerprints import Fingerprints
from medsam2_atlas.storage.folder import Study, WorkFolder
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.lineage import Lineage, Version
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.names import LISTED
from medsam2_atlas.storage.reconcile import Reconciler
from medsam2_atlas.storage.rows import ImageRow, LabelRow
from medsam2_atlas.storage.safely import make_folder, temporary, write_safely
from medsam2_atlas.storage.scan import reason


class StudyContents:
    """The images and label maps of an open studies folder. Safe for several processes and threads."""

    def __init__(self, path: Path, table: OrganTable | None = None, roots: Iterable[Path] = ()) -> None:
        """Opens a folder, completes changes that a crash interrupted, and records changes by other programs.

        Existing studies remain readable on a full or read-only disk.

        Args:
            path: the folder; created if it does not exist.
            table: the organs that label maps may contain; those of `configs/labels.yaml` by default.
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
        # Stores with different roots see different studies. Each set of roots has its own index, so that one store does not
        # undo the entries of another.
        name = f"studies-{self._roots.key}.sqlite" if self._roots.key else "studies.sqlite"
        self.review, self.erased, self.assignments = ReviewStage(self.work), Erased(self.work), Assignments(self.work)
        self._index = Index(self.work.folder(".") / name)
        self._reconciler = Reconciler(self.path, self.work, self._index, self._roots)
        self._index.fill = lambda: self._reconciler.run(thorough=True)
        fingerprints = Fingerprints(self.work)
        self._auditor = Auditor(self.path, self._index, self._reconciler.settler, self._table, fingerprints)
        self._current = CurrentLabels(self.path, self._index, self._reconciler, self._auditor, self._update)
        self._images: Kept[Mapping[str, Image]] = Kept()
        self._labels: Kept[Mapping[str, Mapping[str, Label]]] = Kept()
        self._each_image: KeptEach[ImageRow, Image] = KeptEach()
        self._each_label: KeptEach[LabelRow, Label] = KeptEach()
        self._opened = True  # the images found at opening are not compared yet
        self._sweeps: Background | None = None
        with self._errors("be opened"):
            self._index.ready()

    @property
    def index_file(self) -> Path:
        """The file of the index. It may be deleted at any time."""
        return self._index.file

    def images(self) -> Mapping[str, Image]:
        """Returns all images by study; the same object until something changes."""
        self._update()
        rows = self._index.images()
        return self._images.of(
            (rows,), lambda: {image.study: image for image in self._each_image.of(rows.items(), self._image)}
        )

    def image(self, study: str) -> Image:
        """Returns the image of a study.

        Raises:
            NotFoundError: the study does not exist, or its image cannot be used.
        """
        row = self._index.image(study)
        if row is None or not (self.path / row.file).exists():
            self._update()
            row = self._index.image(study)
        if row is None:
            problem = self._index.problems().get((study, ""))
            if problem:
                raise NotFoundError(repr(study[:80]), problem)
            raise NotFoundError(repr(study[:80]), "is not a study of this folder.", LISTED)
        return self._image(row)

    def checksum(self, study: str) -> str:
        """Returns the SHA-256 of a study's image. It is stored, and computed again only if the file has changed.

        Raises:
            NotFoundError: the study does not exist.
            StorageError: the image cannot be read, or keeps changing.
        """
        with self._errors("be read", study):
            return self._auditor.checksum(study)

    def studies(self) -> list[Study]:
        """Returns the studies with a usable image, sorted by name, with their `final` label maps that have no problem."""
        images, labels, problems = self.images(), self.labels(), self.problems()
        found = []
        for study, image in sorted(images.items()):
            final = labels.get(study, {}).get(FINAL)
            if "image" not in problems.get(study, {}):
                found.append(Study(study, image.file, final.file if final is not None and not final.problem else None))
        return found

    def labels(self) -> Mapping[str, Mapping[str, Label]]:
        """Returns all current label maps by study and tag; the same objects until something changes."""
        self._update()
        rows = self._index.labels()
        return self._labels.of((rows,), lambda: _by_study(self._each_label.of(rows.items(), self._label)))

    def label(self, study: str, tag: str) -> Label:
        """Returns the current label map of a study under a tag. A file that was overwritten in place becomes a new version.

        Raises:
            NotFoundError: there is no label map.
            StorageError: the folder cannot be read.
        """
        with self._errors("be read", study):
            row = self._current.find(study, tag)
        if row is None:
            raise NotFoundError(repr(study[:80]), f"has no label map under {tag[:80]!r}.", LISTED)
        return self._label(row)

    def tags(self, study: str) -> list[str]:
        """Returns the tags under which a study has or had a label map.

        Raises:
            NotFoundError: the study does not exist.
        """
        self.image(study)
        folders = self._lineage(study, FINAL).folder.parent.parent.glob("*")
        return sorted(folder.name for folder in folders if (folder / study).is_dir())

    def counts(self) -> tuple[int, dict[str, int]]:
        """Returns the number of images, and the number of label maps without a problem under each tag."""
        self._update()
        return self._index.counts()

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns problems by study, including those of files that are left out.

        Returns:
            Problems by study, then by tag. The tag `image` is a problem of the image, `note` a remark on a usable image.
        """
        self._update()
        found: dict[str, dict[str, str]] = {}
        notes = {study for (study, tag), (_, bad) in self._index.unsettled().items() if not tag and not bad}
        for (study, tag), text in sorted(self._index.problems().items()):
            found.setdefault(study, {})[tag or ("note" if study in notes else "image")] = text
        return found

    def writable(self) -> str:
        """Returns why labels cannot be saved, or an empty string if they can. Tests this with a small temporary file."""
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
        """Returns all versions of a study's label map under a tag, the oldest first.

        Raises:
            NotFoundError: there never was a label map.
            StorageError: a record cannot be read.
        """
        versions = self._lineage(study, tag).versions() if tag in self.tags(study) else []
        if not versions:
            raise NotFoundError(repr(study), f"has no label map under {tag!r}.", LISTED)
        return versions

    def version_file(self, study: str, tag: str, number: int) -> Path:
        """Returns the file of a version. The caller must not change it.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            number: the number of the version.

        Raises:
            NotFoundError: there is no such version, or it is a removal.
            StorageError: the file has changed since it was saved, or its record cannot be read.
        """
        return self._intact(study, tag, number)[0]

    def held_back(self, label: Label) -> str:
        """Returns why models do not learn from a label map, or an empty string if they do.

        They do if it is `final`, has no problem and, with the review stage on, was accepted.
        """
        return held_back(label, self.review)

    def refresh(self, thorough: bool = False) -> None:
        """Scans the folder for changes by other programs.

        Args:
            thorough: whether to search all versions for changes that a crash interrupted.

        Raises:
            StorageError: the folder cannot be read.
        """
        with self._errors("be read"):
            self._index.ready()
            self._index.again(lambda: self._reconciler.run(thorough=thorough))
            self._compare_images()

    def sweep_in_background(self) -> None:
        """Compares the stamps of all files in a thread from now on, so that no caller waits for it.

        Then answers may miss that another program has overwritten a file in place: a call starts the comparison if the last one
        is some seconds old, and only calls after its end have the change. All other changes are in the next answer, as before.
        If the comparison fails, callers get its error until it succeeds; the next ones make it themselves.
        """
        self._sweeps = self._sweeps or Background("stamps of the studies", self._sweep)

    def audit(self, stop: threading.Event | None = None) -> int:
        """Checks label maps that other programs have put into the folder, and computes checksums of their images. This is slow.

        Args:
            stop: if set, the work ends after the current file.

        Returns:
            The number of label maps checked; `problems` returns their problems.

        Raises:
            StorageError: the folder cannot be checked.
        """
        with self._errors("be checked"):
            self._update()
            if self._auditor.compare_all(stop):
                self._index.again(self._reconciler.run)
            count = self._auditor.run(stop)
            self._auditor.compare_all(stop)
            return count

    def _update(self) -> None:
        """Scans the folder if it has changed, and compares the stamps of all files if that is due."""
        with self._errors("be read"):
            if self._index.again(self._reconciler.if_changed) or self._opened:
                self._opened = False
                self._compare_images()
            if self._sweeps is None:
                if self._reconciler.sweep_is_due:
                    self._sweep()
                return
            if self._reconciler.sweep_is_due:
                if self._sweeps.failure is None:
                    self._sweeps.start()
                else:  # the error may be old, such as after a night without requests
                    self._sweeps.run()
            failure = self._sweeps.failure
            if failure is not None:
                raise failure.with_traceback(None)  # it is raised again and again

    def _sweep(self) -> None:
        if self._index.again(self._reconciler.sweep):
            self._compare_images()

    def _compare_images(self) -> None:
        """Compares changed images, and several files of one study, for a limited time."""
        if self._auditor.compare_images():
            self._index.again(self._reconciler.run)

    def _intact(self, study: str, tag: str, number: int) -> tuple[Path, Version]:
        lineage = self._lineage(study, tag) if tag in self.tags(study) else None
        version = lineage.version(number) if lineage is not None and number in lineage.numbers() else None
        if lineage is None or version is None or version.removed:
            raise NotFoundError(repr(study), f"has no version {number} of the label map under {tag!r}.", LISTED)
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
    def _errors(self, action: str, subject: str = "") -> Iterator[None]:
        """Raises a StorageError "SUBJECT: cannot ACTION" if the disk or the index fails in the block."""
        try:
            yield
        except MedSAM2AtlasError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StorageError(subject or self.path, f"cannot {action}: {error}.", "Nothing was changed.") from error


def _by_study(labels: Iterable[Label]) -> dict[str, dict[str, Label]]:
    found: dict[str, dict[str, Label]] = {}
    for label in labels:
        found.setdefault(label.study, {})[label.tag] = label
    return found
