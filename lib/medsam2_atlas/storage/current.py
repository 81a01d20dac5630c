"""Finds the current label map of a study under a tag, after recording changes of its file and its image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.storage.audit import Auditor
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.reconcile import Reconciler
from medsam2_atlas.storage.rows import LabelRow, stamp_of


class CurrentLabels:
    """Finds single label maps.

    Args:
        path: the studies folder.
        index: the index of the studies.
        reconciler: the reconciler of the folder.
        auditor: the auditor of the folder.
        update: scans the folder if it has changed.
    """

    def __init__(self, path: Path, index: Index, reconciler: Reconciler, auditor: Auditor, update: Callable[[], None]) -> None:
        self._path, self._index, self._reconciler, self._auditor, self._update = path, index, reconciler, auditor, update

    def find(self, study: str, tag: str) -> LabelRow | None:
        """Returns the current label map; None if there is none.

        Raises:
            OSError, StorageError: the folder cannot be read.
        """
        row = self._index.label(study, tag)
        if row is None or not self._as_known(row):
            self._settle(study, tag)
            row = self._index.label(study, tag)
        return row

    def find_or_failed(self, study: str, tag: str) -> tuple[LabelRow | None, bool]:
        """Returns the current label map, and whether settling it failed."""
        row = self.find(study, tag)
        return row, self._index.unsettled().get((study, tag), ("", False))[1]

    def _as_known(self, row: LabelRow) -> bool:
        """Returns whether a label map and its image match the index and were compared with each other."""
        image = self._index.image(row.study)
        if image is None or (row.unsure and any(study == row.study for study, _ in self._index.undecided_images())):
            return False
        try:
            nothing_known = not image.sha256 and not row.version.image_sha256
            same_image = nothing_known or image.stamp == stamp_of(self._path / image.file) == image.hashed
            return same_image and row.stamp == stamp_of(self._path / row.file)
        except OSError:
            return False

    def _settle(self, study: str, tag: str) -> None:
        """Records changes of one label map and its image."""
        self._update()
        if self._index.image(study) is None or self._index.label(study, tag) is None:
            return
        with contextlib.suppress(OSError, MedSAM2AtlasError):
            self._auditor.settle_image(study)
        row = self._index.label(study, tag)
        if row is not None and not self._as_known(row):
            self._index.again(lambda: self._reconciler.settle(study, tag))
