"""Stores registrations on disk: an atlas that grows keeps its common space, so a target's registration stays valid."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.registration.transform import Transform

_FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class RegistrationCache:
    """A folder of transforms, one file per key. Several processes may use it: files are replaced in one step."""

    folder: Path

    def get(self, key: str, make: Callable[[], Transform]) -> Transform:
        """Returns the transform of a key; computes and stores it if it is missing.

        The first call also returns the stored form (displacements in half precision), so that results do not depend on the
        cache. If another process empties the cache during the computation, the transform is not stored: its study may have
        been erased.

        Args:
            key: the path of the file below the folder, without its suffix.
            make: computes the transform.
        """
        file = self.folder / f"{key}.npz"
        if file.is_file():
            try:
                return Transform.load(file)
            except AtlasError:
                file.unlink(missing_ok=True)
        before = self._emptied()
        transform = make()
        with scratch_folder() as folder:
            transform.save(folder / "transform.npz")
            stored = Transform.load(folder / "transform.npz")
        if self._emptied() == before:
            file.parent.mkdir(parents=True, exist_ok=True)
            transform.save(file)
            if self._emptied() != before:
                file.unlink(missing_ok=True)
        return stored

    def forget(self) -> None:
        """Prevents registrations in progress from being stored. Call it before emptying the folder."""
        if self.folder.parent.is_dir():  # the folder itself may not exist yet: the first stored transform creates it
            mark = self.folder.with_name(f"{self.folder.name}.{_FORGOTTEN}")
            mark.write_text(os.urandom(8).hex())

    def _emptied(self) -> str:
        """Returns a token that changes whenever the cache is emptied."""
        with suppress(OSError):
            return self.folder.with_name(f"{self.folder.name}.{_FORGOTTEN}").read_text()
        return ""
