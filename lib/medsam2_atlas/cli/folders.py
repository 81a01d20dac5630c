"""Studies folders that commands work in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsam2_atlas.base import file_modes

if TYPE_CHECKING:
    from medsam2_atlas.storage import StudyFolder


def study_folder(path: Path) -> StudyFolder:
    """Opens a studies folder. What the command writes from then on is private, or for the folder's group as its files are.

    Raises:
        InputError: not a folder.
    """
    from medsam2_atlas.storage import StudyFolder

    folder = StudyFolder(path)
    file_modes.follow(folder.work.path)
    return folder
