"""Opens a studies folder for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsam2_atlas.base import file_modes

if TYPE_CHECKING:
    from medsam2_atlas.storage import StudyFolder


def study_folder(path: Path) -> StudyFolder:
    """Opens a studies folder, and sets the umask for the files that the process writes from now on.

    The files are private to their owner, or open to the folder's group if the work folder is shared with its group.

    Raises:
        InputError: the path is not a folder.
    """
    from medsam2_atlas.storage import StudyFolder

    folder = StudyFolder(path)
    file_modes.follow(folder.work.path)
    return folder
