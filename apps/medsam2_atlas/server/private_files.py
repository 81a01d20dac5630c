"""Modes of the server's files: whoever starts it, with whatever umask, nobody but its user can read them, or a group."""

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
    """Sets the umask of this process, and closes the server's folders; what lies in them follows in the background.

    Files that earlier versions left open are changed if they belong to this process' user. Images of a studies folder are
    never changed: they are the operator's. Its label maps are changed only to open them to a group.

    Args:
        work: work folder of the studies; it is made if it does not exist.
        for_group: whether files are for the group of the studies folder, too.
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
        _tell_open_files((studies, studies / "labels"))
    threading.Thread(target=_settle_all, args=(folders, for_group, group), name="file modes", daemon=True).start()


def _settle_all(folders: Iterable[Path], for_group: bool, group: int | None) -> None:
    try:
        changed = sum(apply_modes(folder, for_group, group) for folder in folders)
    except OSError:
        log.exception("modes of files of earlier versions are left as they are")
        return
    if changed:
        log.info("modes of %d files and folders of earlier versions or settings were changed", changed)


def _studies_folder() -> Path | None:
    studies = settings.MONAI_LABEL_STUDIES
    return None if is_url(studies) else Path(studies)


def _sessions() -> list[Path]:
    """Returns the folders of sessions. The folder that holds them is the operator's, and may hold other things."""
    folder = Path(settings.MONAI_LABEL_SESSION_PATH.strip() or Path.home() / ".cache" / "monailabel" / "sessions")
    try:
        return [entry for entry in folder.iterdir() if SESSION_ID.fullmatch(entry.name)]
    except OSError:
        return []


def _tell_open_files(folders: Iterable[Path]) -> None:
    """Logs which folders of the operator everybody on this machine can read."""
    for folder in folders:
        try:
            if folder.stat().st_mode & stat.S_IROTH:
                log.warning("%s can be read by every user of this machine. To change that: chmod -R o= '%s'", folder, folder)
        except OSError as error:
            log.debug("%s: %s", folder, error)
