"""Keyed hashes that replace study names in logs and audit records.

Study names and DICOM UIDs can identify patients. A log line contains a keyed hash instead, such as `study-1a2b3c4d5e`. The same
name gets the same hash everywhere, so that lines can be related. Without the key, nobody can find the name by trying names.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path

from medsam2_atlas.base.file_modes import file_mode, hand_over

log = logging.getLogger(__name__)

_FILE = "names.key"
_KEY_BYTES = 32
_DIGITS = 10


class StudyNames:
    """Turns study names into keyed hashes. The key is stored in the work folder."""

    def __init__(self, work_folder: Path, plain: bool = False) -> None:
        """Reads the key, or creates it.

        Args:
            work_folder: the folder `.medsam2_atlas` of a set of studies; created if it does not exist. It contains the key
                (`names.key`, 32 random bytes, readable by its owner or the folder's group). If the file cannot be used, the key
                exists in memory only.
            plain: whether names are used as they are, without hashing.
        """
        self.plain = plain
        self._key = b"" if plain else study_key(work_folder)

    def hashed(self, name: str) -> str:
        """Returns `study-` and 10 hexadecimal digits of a study's name or UID; the name itself if names are plain."""
        if self.plain:
            return name
        digest = hmac.new(self._key, name.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"study-{digest.hexdigest()[:_DIGITS]}"


def study_key(folder: Path) -> bytes:
    """Returns the key of a set of studies, 32 bytes. The first process creates it; other processes read it.

    Args:
        folder: the work folder; see `StudyNames`.
    """
    file = folder / _FILE
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            hand_over(folder, folder.parent)
        if not file.exists() and not file.is_symlink():
            _make(file)
        return _read(file)
    except OSError as error:
        log.warning("%s cannot be used (%s); hashes and UIDs of studies are valid only until the process ends", file, error)
        return secrets.token_bytes(_KEY_BYTES)


def _make(file: Path) -> None:
    """Creates the key in one step: a link never replaces a file, so if several processes try, the first one succeeds."""
    part = file.with_name(f".part-{secrets.token_hex(4)}.key")
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode(file.parent))
    try:
        with os.fdopen(opened, "wb") as stream:
            hand_over(opened, file.parent)
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(part, file)
        except FileExistsError:
            return
        except OSError:  # the file system has no hard links
            part.rename(file)
    finally:
        part.unlink(missing_ok=True)


def _read(file: Path) -> bytes:
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(opened, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError("it is not a regular file")
        key = stream.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise OSError(f"it does not have {_KEY_BYTES} bytes")
    return key
