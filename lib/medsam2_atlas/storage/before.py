"""Finds which organs the version before a new one holds, without holding the lock of the studies: decoding it is slow."""

from __future__ import annotations

import logging
from pathlib import Path

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.storage.checks import look_at_label
from medsam2_atlas.storage.rows import LabelRow

log = logging.getLogger(__name__)


class OvertakenError(Exception):
    """The current label map is not the one that was checked; it has to be checked again."""


class Before:
    """The label map that is to be replaced, as it was when it was checked."""

    def __init__(self, row: LabelRow | None, failed: bool, path: Path, image: Path) -> None:
        """Checks a label map, in a reader process if its organs are not recorded.

        Args:
            row: the label map; None if there is none, or if it cannot be used.
            failed: whether it could not be settled.
            path: of the studies folder.
            image: file of its image.
        """
        self._seen = _identity(row, failed)
        self._organs = _organs(row, failed, path, image)

    def organs_of(self, row: LabelRow | None, failed: bool) -> tuple[int, ...] | None:
        """Returns the organ numbers; None if they are not known.

        Args:
            row: the current label map, read under the lock.
            failed: whether it could not be settled.

        Raises:
            OvertakenError: it is another one than the label map that was checked.
        """
        if _identity(row, failed) != self._seen:
            raise OvertakenError
        return self._organs


def _identity(row: LabelRow | None, failed: bool) -> tuple[int, str, bool]:
    return (row.version.number, row.version.sha256, failed) if row else (0, "", failed)


def _organs(row: LabelRow | None, failed: bool, path: Path, image: Path) -> tuple[int, ...] | None:
    if row is None:
        return None if failed else ()
    if row.version.organs is not None:
        return row.version.organs
    try:
        return look_at_label(path / row.file, image).organs
    except (OSError, MedSAM2AtlasError) as error:
        log.warning("the label of %s under %s cannot be checked: %s", row.study, row.tag, error)
        return None
