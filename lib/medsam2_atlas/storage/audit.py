"""Slow checks: checksums of images, and the full check of label maps that other programs have put into the folder."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.storage.checks import check_label, inspect_label
from medsam2_atlas.storage.compare import ImageComparison
from medsam2_atlas.storage.fingerprints import Fingerprints
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.names import LISTED
from medsam2_atlas.storage.rows import ImageRow, LabelRow, stamp_of
from medsam2_atlas.storage.scan import reason
from medsam2_atlas.storage.settle import Settler

log = logging.getLogger(__name__)

_BUDGET_SECONDS = 0.5

_Answer = TypeVar("_Answer")


class Auditor:
    """Checks images and label maps one at a time, without holding the lock of the studies.

    Args:
        path: the studies folder.
        index: the index of the studies.
        settler: returns the versions of a label map.
        table: the organs that label maps may contain.
        fingerprints: fingerprints of the images that label maps were drawn on.
    """

    def __init__(self, path: Path, index: Index, settler: Settler, table: OrganTable, fingerprints: Fingerprints) -> None:
        self._path, self._index, self._settler, self._table = path, index, settler, table
        self._images = ImageComparison(path, index, fingerprints)
        self._hashing = threading.Lock()
        """The lock held while a checksum is computed, so that each image is read once."""
        self._comparing = threading.Lock()
        """The lock held while images are decoded and compared."""

    def checksum(self, study: str) -> str:
        """Returns the SHA-256 of a study's image; computes it again if the file has changed.

        Raises:
            NotFoundError: the study does not exist.
            OSError: the image cannot be read.
            StorageError: the image keeps changing.
        """
        known = self._known(study)
        if known:
            return known
        with self._hashing:
            known = self._known(study)
            return known or self._hashed(study)

    def compare_images(self) -> bool:
        """Compares changed images with those that label maps were drawn on, and several files of one study with each other.

        Stops after half a second, but completes at least one image. Does nothing if another thread is comparing.

        Returns:
            Whether several files of a study were compared, so that the folder must be scanned again.
        """
        until = time.monotonic() + _BUDGET_SECONDS
        if not self._comparing.acquire(blocking=False):
            return False
        try:
            return self._compare(lambda: time.monotonic() > until, nullcontext())
        finally:
            self._comparing.release()

    def compare_all(self, stop: threading.Event | None = None) -> bool:
        """Compares all images as `compare_images` does, without a time limit.

        Args:
            stop: if set, the work ends after the current image.

        Returns:
            Whether several files of a study were compared, so that the folder must be scanned again.
        """
        return self._compare(lambda: stop is not None and stop.is_set(), self._comparing)

    def _compare(self, over: Callable[[], bool], lock: AbstractContextManager[Any]) -> bool:
        """Compares images until `over` returns True; takes the lock separately for each image."""
        seen = False
        for study in self._index.changed_images():
            self._try(study, self.checksum)
            if over():
                return seen
        for study, previous in self._index.undecided_images():
            with lock:
                self._try(study, lambda name: self._images.compare(name, previous))  # noqa: B023 called at once
            if over():
                return seen
        for study in self._index.twins():
            with lock:
                seen |= bool(self._try(study, self._images.compare_twins))
            if over():
                break
        return seen

    def run(self, stop: threading.Event | None = None) -> int:
        """Checks label maps that were not checked yet, and computes missing checksums of images.

        Args:
            stop: if set, the work ends after the current file.

        Returns:
            The number of label maps checked.
        """
        count = 0
        for study, tag in self._index.unchecked():
            if stop is not None and stop.is_set():
                return count
            count += self._check(study, tag)
        for study in self._index.unknown_images():
            if stop is not None and stop.is_set():
                return count
            self._try(study, self.checksum)
        for study in self._index.drawn_on():
            if stop is not None and stop.is_set():
                return count
            if self._try(study, self._images.remember) is False:
                break  # the disk is full or read-only: each image would be decoded in vain, again and again
        for study, tag in self._index.doubled():
            if stop is not None and stop.is_set():
                return count
            self._try(study, lambda name: self._compare_doubled(name, tag))  # noqa: B023 called at once
        return count

    def settle_image(self, study: str) -> None:
        """Computes the checksum of a study's image, and compares the image with those that its label maps were drawn on.

        Raises:
            NotFoundError: the study does not exist.
            OSError, InputError: the image cannot be read.
        """
        self.checksum(study)
        with self._comparing:
            for name, previous in self._index.undecided_images():
                if name == study:
                    self._images.compare(study, previous)

    def remember(self, study: str) -> None:
        """Stores the fingerprint of a study's image for comparison with later files; only logs a failure."""
        self._try(study, self._images.remember)

    def _check(self, study: str, tag: str) -> bool:
        row, image = self._index.label(study, tag), self._index.image(study)
        if row is None or image is None or row.checked is not None:
            return False
        organs, checksum, problem = row.version.organs, row.version.image_sha256, ""
        info = row.version.info
        try:
            checked = check_label(self._path / row.file, self._path / image.file, self._table)
            organs = checked.organs
            for remark in checked.remarks:
                log.warning("the label of %s under %s: %s", study, tag, remark)
            info = {**info, "remarks": list(checked.remarks)} if checked.remarks else info
            checksum = checksum or self.checksum(study)
        except Exception as error:  # noqa: BLE001 - an error of one label map must not stop the check of the others
            problem = reason(error)
            log.warning("the label of %s under %s %s", study, tag, problem)
        version = replace(row.version, organs=organs, image_sha256=checksum, info=info)
        with self._index.writing() as rows:
            now = rows.label(study, tag)
            if now is None or (now.stamp, now.version) != (row.stamp, row.version):
                return False  # the label map has changed meanwhile: it is checked again later
            rows.put_label(replace(row, version=version if not problem else row.version, checked=problem))
            if not problem:
                self._record(row, version)
        return True

    def _record(self, row: LabelRow, version: Version) -> None:
        try:
            lineage = self._settler.lineage(row.study, row.tag)
            if row.version.number in lineage.numbers():
                lineage.write(version)
        except (OSError, StorageError) as error:
            log.warning("the check of %s under %s is not recorded: the record %s", row.study, row.tag, reason(error))

    def _compare_doubled(self, study: str, tag: str) -> None:
        """Marks a label map that was found in several files as usable if all files contain the same voxels."""
        row, image = self._index.label(study, tag), self._index.image(study)
        if row is None or image is None or not row.version.doubled:
            return
        lineage, number = self._settler.lineage(study, tag), row.version.number
        numbers = lineage.numbers()
        if number not in numbers:
            return  # the file is not stored as a version yet
        others = [n for n in numbers if n < number][-len(row.version.doubled) :]
        files = [self._path / row.file, *(lineage.file(lineage.version(n)) for n in others)]
        if len({inspect_label(file, self._path / image.file).digest for file in files}) > 1:
            return
        with self._index.writing() as rows:
            now = rows.label(study, tag)
            if now is not None and (now.stamp, now.version) == (row.stamp, row.version):
                version = replace(row.version, doubled=())
                lineage.write(version)
                rows.put_label(replace(now, version=version))
                log.info("the files of the label of %s under %s contain the same voxels", study, tag)

    def _try(self, study: str, work: Callable[[str], _Answer]) -> _Answer | None:
        """Returns the answer, or logs the error and returns None if the image, the label map or a reader fails."""
        try:
            return work(study)
        except (OSError, MedSAM2AtlasError) as error:
            log.warning("the image of %s %s", study, reason(error))
            return None

    def _known(self, study: str) -> str:
        row = self._index.image(study)
        if row is None:
            raise NotFoundError(repr(study[:80]), "is not a study of this folder.", LISTED)
        return row.sha256 if row.hashed and row.hashed == row.stamp == stamp_of(self._path / row.file) else ""

    def _hashed(self, study: str) -> str:
        for _ in range(3):
            row = self._index.image(study)
            if row is None:
                break
            file = self._path / row.file
            before = stamp_of(file)
            checksum = sha256(file)
            if before and stamp_of(file) == before:
                done = replace(row, stamp=before, sha256=checksum, hashed=before)
                self._index.again(lambda: self._keep(done))  # noqa: B023 called at once
                return checksum
        raise StorageError(study, "has an image that keeps changing.", "Wait until it has been copied.")

    def _keep(self, done: ImageRow) -> None:
        with self._index.writing() as rows:
            now = rows.image(done.study)
            if now is not None and now.file == done.file:
                rows.put_image(replace(done, info=now.info))
