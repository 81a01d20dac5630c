"""Compares images of a studies folder: a changed file with the image that label maps were drawn on, and files of one name.

Comparing decodes the files, so no lock is held. The index stores the results by checksums and stamps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.decoding import UnreadableFileError
from medsam2_atlas.storage.fingerprints import Fingerprints, same_image
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.rows import ImageRow, stamp_of
from medsam2_atlas.storage.scan import reason


class ImageComparison:
    """Compares images of a studies folder.

    Args:
        path: the studies folder.
        index: the index of the studies.
        fingerprints: fingerprints of the images that label maps were drawn on.
    """

    def __init__(self, path: Path, index: Index, fingerprints: Fingerprints) -> None:
        self._path, self._index, self._fingerprints = path, index, fingerprints

    def remember(self, study: str) -> bool:
        """Stores the fingerprint of a study's image; returns False if it could not be written.

        Raises:
            InputError: the image cannot be read as a CT.
        """
        row = self._current(study)
        if row is None or self._fingerprints.known(row.sha256) is not None:
            return True
        self._fingerprints.of(self._path / row.file, row.sha256)
        return self._fingerprints.known(row.sha256) is not None

    def compare(self, study: str, previous: str) -> None:
        """Compares a study's image with a previous one. If the previous fingerprint is unknown, they count as different.

        Args:
            study: the name of the study.
            previous: the SHA-256 of the previous image.

        Raises:
            UnreadableFileError: the image crashed its reader process; a later call tries again.
        """
        row = self._current(study)
        if row is None:
            return
        before = self._fingerprints.known(previous)
        try:
            same = before is not None and self._fingerprints.of(self._path / row.file, row.sha256).matches(before)
        except UnreadableFileError:
            raise
        except InputError:
            same = False
        if stamp_of(self._path / row.file) == row.stamp:  # otherwise the file has changed since
            self._index.again(lambda: self._keep(previous, row.sha256, same))

    def compare_twins(self, study: str) -> bool:
        """Compares the image files of a study that has several.

        Returns:
            Whether this call has compared them.

        Raises:
            OSError: a file cannot be read.
            UnreadableFileError: a file crashed its reader process; a later call tries again.
        """
        known = self._index.twins().get(study)
        if known is None or known[1] is not None:
            return False
        stamps = dict(json.loads(known[0]))
        files = [self._path / name for name in stamps]
        verdict = difference(files)
        if {file.name: stamp_of(file) for file in files} != stamps:
            return False
        self._index.again(lambda: self._keep_verdict(study, known[0], verdict))
        return True

    def _current(self, study: str) -> ImageRow | None:
        """Returns the image if its checksum is known and current, else None."""
        row = self._index.image(study)
        current = row is not None and row.sha256 and row.hashed == row.stamp == stamp_of(self._path / row.file)
        return row if current else None

    def _keep(self, previous: str, current: str, same: bool) -> None:
        with self._index.writing() as rows:
            if any(row.sha256 == current for row in rows.images().values()):  # else it was erased while it was decoded
                rows.put_alike(previous, current, same)

    def _keep_verdict(self, study: str, files: str, verdict: str) -> None:
        with self._index.writing() as rows:
            if rows.twins().get(study, ("",))[0] == files:
                rows.put_twins(study, files, verdict)


def difference(files: Sequence[Path]) -> str:
    """Returns why several files cannot count as one image, or an empty string if all contain the same image.

    Raises:
        OSError: a file cannot be read.
        UnreadableFileError: a file crashed its reader process.
    """
    sums = {}
    for file in files:
        try:
            sums[sha256(file)] = file
        except PermissionError:
            return f"they cannot be compared, since {file.name} cannot be read (Permission denied)."
    first, *others = sums.values()
    try:
        return "" if all(same_image(first, other) for other in others) else "they are different images."
    except UnreadableFileError:
        raise
    except InputError as error:
        return f"they cannot be compared, since {Path(error.subject).name} {reason(error)}"
