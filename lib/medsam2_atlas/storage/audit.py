"""Slow checks: checksums of images, and the full check of label maps that other programs put into the folder."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from medsam2_atlas.errors import MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.files import sha256
from medsam2_atlas.labels import OrganTable
from medsam2_atlas.storage.checks import check_label
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.rows import ImageRow, LabelRow, stamp_of
from medsam2_atlas.storage.scan import reason
from medsam2_atlas.storage.settle import Settler

log = logging.getLogger(__name__)

_BUDGET_SECONDS = 0.5


class Auditor:
    """Checks images and label maps one at a time, without holding the lock of the studies."""

    def __init__(self, path: Path, index: Index, settler: Settler, table: OrganTable) -> None:
        """
        Args:
            path: of the studies folder.
            index: of the studies.
            settler: gives the versions of a label map.
            table: organs that label maps may hold.
        """
        self._path, self._index, self._settler, self._table = path, index, settler, table
        self._hashing = threading.Lock()
        """Held while an image is read for its checksum, so that it is read once."""

    def checksum(self, study: str) -> str:
        """Returns the SHA-256 of a study's image, computed again if the file has changed.

        Raises:
            NotFoundError: no such study.
            OSError: the image cannot be read.
        """
        known = self._known(study)
        if known:
            return known
        with self._hashing:
            known = self._known(study)
            return known or self._hashed(study)

    def compare_images(self) -> None:
        """Computes checksums of changed images, for at most half a second or one image."""
        until = time.monotonic() + _BUDGET_SECONDS
        for study in self._index.changed_images():
            self._try_checksum(study)
            if time.monotonic() > until:
                break

    def run(self, stop: threading.Event | None = None) -> int:
        """Checks label maps that were not checked yet, and computes missing checksums of images.

        Args:
            stop: ends the work after the current file.

        Returns:
            How many label maps were checked.
        """
        count = 0
        for study, tag in self._index.unchecked():
            if stop is not None and stop.is_set():
                return count
            count += self._check(study, tag)
        for study in self._index.unknown_images():
            if stop is not None and stop.is_set():
                break
            self._try_checksum(study)
        return count

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
        except Exception as error:  # noqa: BLE001 - no error of one label map may stop the others
            problem = reason(error)
            log.warning("the label of %s under %s %s", study, tag, problem)
        version = replace(row.version, organs=organs, image_sha256=checksum, info=info)
        with self._index.writing() as rows:
            now = rows.label(study, tag)
            if now is None or (now.stamp, now.version) != (row.stamp, row.version):
                return False  # changed meanwhile: it is checked again later
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
            log.warning("the check of %s under %s is not recorded: it %s", row.study, row.tag, reason(error))

    def _try_checksum(self, study: str) -> None:
        try:
            self.checksum(study)
        except (OSError, MedSAM2AtlasError) as error:
            log.warning("the image of %s %s", study, reason(error))

    def _known(self, study: str) -> str:
        row = self._index.image(study)
        if row is None:
            raise NotFoundError(repr(study[:80]), "is no study of this folder.")
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
