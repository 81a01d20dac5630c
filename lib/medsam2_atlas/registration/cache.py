"""Keeps registrations on disk: a target meets the same common space again whenever its atlas has grown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.errors import AtlasError
from medsam2_atlas.registration.transform import Transform


@dataclass(frozen=True)
class RegistrationCache:
    """A folder of transforms by key. Safe for several processes: files are replaced in one step."""

    folder: Path

    def get(self, key: str, make: Callable[[], Transform]) -> Transform:
        """The transform of that key, made and stored where it is not there yet.

        It comes back as it was stored, in half precision, the first time too: a result does not depend on the cache.
        """
        file = self.folder / f"{key}.npz"
        if file.is_file():
            try:
                return Transform.load(file)
            except AtlasError:
                file.unlink(missing_ok=True)
        transform = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        transform.save(file)
        return Transform.load(file)
