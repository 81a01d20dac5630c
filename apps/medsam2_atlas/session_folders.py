"""MONAI Label's sessions without its faults: damaged folders are skipped, and nothing outside of them is removed."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import SessionInfo, Sessions

from medsam2_atlas.errors import StorageError
from medsam2_atlas.files import remove_folder, replacing

log = logging.getLogger(__name__)

SESSION_ID = re.compile(r"[0-9a-f-]{36}")  # what MONAI Label makes; anything else could lead out of its folder
_UNFINISHED_SECONDS = 600.0
"""Max age of a session without `meta.info` that may still be in preparation."""


class SessionFolders(Sessions):  # type: ignore[misc]
    """Temporary images, each in a folder named by the session's id, with the image and `meta.info`."""

    def remove_expired(self) -> int:
        """Removes sessions that have expired or cannot be used.

        Returns:
            How many were removed.
        """
        count = 0
        try:
            folders = [f for f in Path(self.store_path).iterdir() if SESSION_ID.fullmatch(f.name) and not f.is_symlink()]
        except OSError as error:
            log.debug("no sessions in %s: %s", self.store_path, error)
            return 0
        for folder in folders:
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
            log.info("%d abandoned sessions were removed", count)
        return count

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """Returns a session; None if there is none, or it has expired or cannot be used."""
        info = self._read(session_id)
        if info is None or (info.expiry > 0 and info.last_access_ts + info.expiry < time.time()):
            return None
        if update_ts:
            info.last_access_ts = int(time.time())
            self._write_meta_info(session_id, info)
        return info

    def remove_session(self, session_id: str) -> bool:
        """Removes a session's folder.

        Returns:
            Whether it is gone.
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

    def _read(self, session_id: str) -> Any:
        folder = Path(self.store_path) / session_id
        if not SESSION_ID.fullmatch(session_id) or folder.is_symlink():
            return None
        try:
            info = SessionInfo(json.loads((folder / "meta.info").read_text(encoding="utf-8")))
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
