"""Stores MONAI Label's sessions more safely than MONAI Label does.

Damaged folders are skipped, nothing outside of the sessions' folders is removed, and each session has an owner and an id that
cannot be guessed.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import SessionInfo, Sessions

from medsam2_atlas.base.errors import LimitError, StorageError
from medsam2_atlas.base.files import remove_folder, replacing
from medsam2_atlas.base.json_text import stored_json

log = logging.getLogger(__name__)

SESSION_ID = re.compile(r"[0-9a-f-]{36}")
"""Form of MONAI Label's session ids; any other text could be a path that leads out of the folder."""
_UNFINISHED_SECONDS = 600.0
"""Max age of a folder without `meta.info` that may still become a session."""
_RETRY_SECONDS = 600
"""Time after which a person with too many sessions may try again."""


def owner_of(info: Any) -> str:
    """Returns the id of a session's owner; empty if the session has none."""
    owner = info.meta.get("owner") if isinstance(info.meta, dict) else None
    return owner if isinstance(owner, str) else ""


class SessionFolders(Sessions):  # type: ignore[misc]
    """The folders of temporary images. Each is named by the id of its session and contains the image and `meta.info`.

    `meta.info` contains the owner; sessions of earlier versions of this program have no owner.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = threading.Lock()
        self._being_added: Counter[str] = Counter()

    def add_owned(self, image: Path, expiry: int, owner: str, limit: int) -> tuple[str, Any]:
        """Creates a session for an image and moves the image into the session's folder.

        Args:
            image: file, or folder with a series.
            expiry: time in seconds without use after which the session expires; 0 means the server's default.
            owner: id of the person; empty for a server without a login.
            limit: max number of sessions of a person; applies only with an owner.

        Returns:
            The id of the session, and its information.

        Raises:
            LimitError: the person already has `limit` sessions.
        """
        with self._lock:
            if owner and self._count(owner) + self._being_added[owner] >= limit:
                raise LimitError(
                    "sessions", f"are limited to {limit} for each person.", "Remove one: DELETE /session/ID.", _RETRY_SECONDS
                )
            self._being_added[owner] += 1
        try:
            session_id, info = self.add_session(str(image), expiry, False, str(uuid.uuid4()))
            info.meta = {"owner": owner}
            self._write_meta_info(session_id, info)
        finally:
            with self._lock:
                self._being_added[owner] -= 1
        return session_id, info

    def _count(self, owner: str) -> int:
        """Returns the number of a person's sessions that have not expired."""
        found = (self.get_session(folder.name, update_ts=False) for folder in self._folders())
        return sum(info is not None and owner_of(info) == owner for info in found)

    def remove_expired(self) -> int:
        """Removes sessions that have expired or cannot be used.

        Returns:
            The number of removed sessions.
        """
        count = 0
        for folder in self._folders():
            info = self._read(folder.name)
            if info is not None:
                abandoned = info.expiry > 0 and info.last_access_ts + info.expiry < time.time()
            else:
                try:
                    abandoned = folder.is_dir() and time.time() - folder.stat().st_mtime > _UNFINISHED_SECONDS
                except OSError:
                    continue
            if abandoned:
                count += self.remove_session(folder.name)
        if count:
            log.info("%d expired or unusable sessions were removed", count)
        return count

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """Returns the information of a session; None if the session does not exist, has expired or cannot be used."""
        info = self._read(session_id)
        if info is None or (info.expiry > 0 and info.last_access_ts + info.expiry < time.time()):
            return None
        if update_ts:
            info.last_access_ts = int(time.time())
            self._write_meta_info(session_id, info)
        return info

    def remove_session(self, session_id: str) -> bool:
        """Removes the folder of a session.

        Returns:
            Whether the folder was removed.
        """
        self.pop(session_id, None)
        if not SESSION_ID.fullmatch(session_id):
            return False
        try:
            remove_folder(Path(self.store_path) / session_id, Path(self.store_path))
        except (OSError, StorageError) as error:
            log.warning("session %s could not be removed: %s", session_id, error)
            return False
        return True

    def _folders(self) -> list[Path]:
        try:
            return [f for f in Path(self.store_path).iterdir() if SESSION_ID.fullmatch(f.name) and not f.is_symlink()]
        except OSError as error:
            log.debug("no sessions in %s: %s", self.store_path, error)
            return []

    def _read(self, session_id: str) -> Any:
        """Returns the information of a session, expired or not; None if the session does not exist or cannot be used."""
        folder = Path(self.store_path) / session_id
        if not SESSION_ID.fullmatch(session_id) or folder.is_symlink():
            return None
        try:
            info = SessionInfo(stored_json((folder / "meta.info").read_text(encoding="utf-8")))
            image = Path(info.image)
            info.last_access_ts, info.expiry = int(info.last_access_ts), int(info.expiry)
            good = image.parent == folder and image.exists() and not image.is_symlink()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.debug("session %s cannot be used: %s", session_id, error)
            return None
        return info if good else None

    def _write_meta_info(self, session_id: str, session_info: Any) -> None:
        with replacing(Path(self.store_path) / session_id / "meta.info") as part:
            part.write_text(session_info.to_str(), encoding="utf-8")
