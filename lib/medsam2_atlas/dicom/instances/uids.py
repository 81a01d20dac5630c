"""UIDs for the CTs of a studies folder.

They are keyed hashes (HMAC-SHA-256, 128 bits, below the root 2.25 of PS3.5, B.2). With the key of the folder, the same study
has the same UIDs for everybody and after each restart. Without it, nobody can compute them from a study's name, and two
folders with studies of the same name have different UIDs, so their objects can never be mixed up in an archive.
"""

from __future__ import annotations

import hashlib
import hmac

_ROOT = "2.25."


class FolderUids:
    """The UIDs of the studies in a folder.

    Study, series and frame of reference depend on the study's name alone, so a list of studies needs no voxels. UIDs of
    instances also depend on the checksum of the image file: if another image replaces a study's file, its slices are other
    instances.
    """

    def __init__(self, key: bytes) -> None:
        """Uses the folder's key, see `base.study_hash.study_key`."""
        self._key = key

    def study(self, name: str) -> str:
        """Returns the Study Instance UID of a study."""
        return self._derived("study", name)

    def series(self, name: str) -> str:
        """Returns the Series Instance UID of a study's CT."""
        return self._derived("series", name)

    def frame_of_reference(self, name: str) -> str:
        """Returns the Frame of Reference UID of a study."""
        return self._derived("frame", name)

    def volume(self, name: str, checksum: str) -> str:
        """Returns the UID that begins the SOP Instance UIDs of a CT's slices; `instance` appends their numbers.

        Args:
            name: the name of the study.
            checksum: the SHA-256 of the image file.
        """
        return self._derived("volume", name, checksum)

    def _derived(self, *texts: str) -> str:
        text = "\0".join(("dicom", *texts))  # no name contains a zero byte, so different texts stay different
        digest = hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
        return f"{_ROOT}{int.from_bytes(digest[:16], 'big')}"


def instance_uid(volume: str, number: int) -> str:
    """Returns the SOP Instance UID of a slice. number: its number, from 1."""
    return f"{volume}.{number}"


def instance_number(volume: str, uid: str, count: int) -> int | None:
    """Returns the number of the slice with a SOP Instance UID; None if it is not one of the volume's `count` slices."""
    before, _, last = uid.rpartition(".")
    if before != volume or not (last.isascii() and last.isdecimal()) or last.startswith("0") or len(last) > 6:
        return None
    return int(last) if int(last) <= count else None
