"""Decides which symbolic links in a studies folder are followed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from medsam2_atlas.base.errors import StorageError

ROOTS_ENVIRONMENT = "MEDSAM2_ATLAS_ROOTS"
LINK_PROBLEM = "is left out: a symbolic link leads out of the studies folder."
LINK_REMEDY = f"To follow it, name the folder that it leads to: --conf server_roots=FOLDER, or ${ROOTS_ENVIRONMENT}=FOLDER."


class Roots:
    """The folders that may hold files of a studies folder after all links are resolved."""

    def __init__(self, folder: Path, others: Iterable[str | Path] = ()) -> None:
        """
        Args:
            folder: the studies folder.
            others: folders outside of it that links may lead to; those in `$MEDSAM2_ATLAS_ROOTS` are added.
        """
        named = [*others, *filter(None, os.environ.get(ROOTS_ENVIRONMENT, "").split(os.pathsep))]
        self._allowed: tuple[str, ...] = (os.path.realpath(folder),)
        others_resolved = sorted({os.path.realpath(place) for place in named if not self.hold(place)})
        self._allowed += tuple(others_resolved)
        self.key = hashlib.sha256(os.fsencode("\0".join(others_resolved))).hexdigest()[:8] if others_resolved else ""
        """Differs between sets of other folders; empty if there are none besides the studies folder."""

    def hold(self, path: str | Path) -> bool:
        """Returns whether a path, with all links in it resolved, lies in one of the folders."""
        real = os.path.realpath(path)
        return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self._allowed)

    def check(self, path: Path) -> Path:
        """Returns the path.

        Raises:
            StorageError: it lies outside of the folders.
        """
        if not self.hold(path):
            raise StorageError(path.name, LINK_PROBLEM, LINK_REMEDY)
        return path
