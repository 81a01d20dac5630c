"""Sets the modes of the server's files: only its user, or also a group, can read them, whatever the umask at the start."""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from monailabel.config import settings

from datastores.session_folders import SESSION_ID
from medsam2_atlas.base.file_modes import apply_modes, set_umask
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.storage import WorkFolder

log = logging.getLogger(__name__)


def begin(work: WorkFolder, for_group: bool) -> None:
    """Sets the umask of this process and the modes of the server's folders. A thread then changes the files in them.

    Earlier versions have left readable files; they are changed if they belong to this process' user. Images in a studies folder
    belong to the operator and are never changed. Label maps there are changed only to give a group access.

    Args:
        work: work folder of the studies; created if it does not exist.
        for_group: whether the group of the studies folder gets access to the files.
    """
    set_umask(for_group)
    studies, group = _studies_folder(), None
    try:
        work.path.mkdir(parents=True, exist_ok=True)
        group = studies.stat().st_gid if studies is not None else work.path.stat().st_gid
    except OSError as error:
        log.debug("%s keeps its mode: %s", work.path, error)
    folders = [work.path, *_sessions(), Path(settings.MONAI_LABEL_APP_DIR) / "logs"]
    if studies is not None and for_group:
        folders.append(studies / "labels")
    for folder in folders:
        apply_modes(folder, for_group, group, recursive=False)
    if studies is not None and not for_group:
        _warn_of_readable((studies, studies / "labels"))
    threading.Thread(target=_settle_all, args=(folders, for_group, group), name="file modes", daemon=True).start()


def _settle_all(folders: Iterable[Path], for_group: bool, group: int | None) -> None:
    try:
        changed = sum(apply_modes(folder, for_group, group) for folder in folders)
    except OSError:
        log.exception("the modes of some files of earlier versions cannot be changed")
        return
    if changed:
        log.info("changed the modes of %d files and folders that earlier versions or settings had left", changed)


def _studies_folder() -> Path | None:
    studies = settings.MONAI_LABEL_STUDIES
    return None if is_url(studies) else Path(studies)


def _sessions() -> list[Path]:
    """Returns the folders of sessions. Their parent folder belongs to the operator and may contain other files."""
    folder = Path(settings.MONAI_LABEL_SESSION_PATH.strip() or Path.home() / ".cache" / "monailabel" / "sessions")
    try:
        return [entry for entry in folder.iterdir() if SESSION_ID.fullmatch(entry.name)]
    except OSError:
        return []


def _warn_of_readable(folders: Iterable[Path]) -> None:
    """Logs a warning for each folder of the operator that every user of this machine can read."""
    for folder in folders:
        try:
            if folder.stat().st_mode & stat.S_IROTH:
                log.warning("%s can be read by every user of this machine. To change that: chmod -R o= '%s'", folder, folder)
        except OSError as error:
            log.debug("%s: %s", folder, error)
