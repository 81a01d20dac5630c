"""Finds the organs of the version that a new one will replace. Runs without the studies' lock, since decoding is slow."""

from __future__ import annotations

import logging
from pathlib import Path

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.storage.checks import inspect_label
from medsam2_atlas.storage.rows import LabelRow

log = logging.getLogger(__name__)


class OutdatedError(Exception):
    """Another label map has become current since the check. The check must be repeated."""


class PreviousLabel:
    """The label map to replace, in its state at the time of the check."""

    def __init__(self, row: LabelRow | None, failed: bool, path: Path, image: Path) -> None:
        """Checks a label map; a reader process decodes it if its organs are not recorded.

        Args:
            row: the label map; None if there is none, or if it cannot be used.
            failed: whether settling it failed.
            path: the studies folder.
            image: the file of its image.
        """
        self._seen = _identity(row, failed)
        self._organs = _organs(row, failed, path, image)

    def organs_of(self, row: LabelRow | None, failed: bool) -> tuple[int, ...] | None:
        """Returns the organ numbers; None if they are unknown.

        Args:
            row: the current label map, read under the lock.
            failed: whether settling it failed.

        Raises:
            OutdatedError: the current label map is not the one that was checked.
        """
        if _identity(row, failed) != self._seen:
            raise OutdatedError
        return self._organs


def _identity(row: LabelRow | None, failed: bool) -> tuple[int, str, bool]:
    return (row.version.number, row.version.sha256, failed) if row else (0, "", failed)


def _organs(row: LabelRow | None, failed: bool, path: Path, image: Path) -> tuple[int, ...] | None:
    if row is None:
        return None if failed else ()
    if row.version.organs is not None:
        return row.version.organs
    try:
        return inspect_label(path / row.file, image).organs
    except (OSError, MedSAM2AtlasError) as error:
        log.warning("the label of %s under %s cannot be checked: %s", row.study, row.tag, error)
        return None
