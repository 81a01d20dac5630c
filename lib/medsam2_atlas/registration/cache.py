"""Keeps registrations on disk: a target meets the same common space again whenever its atlas has grown."""

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
    """A folder of transforms by key. Safe for several processes: files are replaced in one step."""

    folder: Path

    def get(self, key: str, make: Callable[[], Transform]) -> Transform:
        """Returns the transform of a key; makes and stores it if it is missing.

        It comes back as it was stored, in half precision, the first time too: a result does not depend on the cache. If the
        cache is emptied meanwhile, the transform is not kept: it may be of a study that was erased.
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
        """Lets registrations that are being made not be kept; called before the folder is emptied."""
        if self.folder.parent.is_dir():  # the folder itself is made by the first one that is kept
            mark = self.folder.with_name(f"{self.folder.name}.{_FORGOTTEN}")
            mark.write_text(os.urandom(8).hex())

    def _emptied(self) -> str:
        """Returns a text that changes whenever the cache is emptied."""
        with suppress(OSError):
            return self.folder.with_name(f"{self.folder.name}.{_FORGOTTEN}").read_text()
        return ""
