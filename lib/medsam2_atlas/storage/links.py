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
    """The folders that may contain files of a studies folder after all links are resolved.

    Args:
        folder: the studies folder.
        linked: folders outside of it that links may lead to; those in `$MEDSAM2_ATLAS_ROOTS` are added.
    """

    def __init__(self, folder: Path, linked: Iterable[str | Path] = ()) -> None:
        named = [*linked, *filter(None, os.environ.get(ROOTS_ENVIRONMENT, "").split(os.pathsep))]
        self._allowed: tuple[str, ...] = (os.path.realpath(folder),)
        outside = sorted({os.path.realpath(path) for path in named if not self.contain(path)})
        self._allowed += tuple(outside)
        self.key = hashlib.sha256(os.fsencode("\0".join(outside))).hexdigest()[:8] if outside else ""
        """An identifier of the set of folders outside of the studies folder; empty if there are none."""

    def contain(self, path: str | Path) -> bool:
        """Returns whether a path, after all its links are resolved, is in one of the folders."""
        real = os.path.realpath(path)
        return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self._allowed)

    def check(self, path: Path) -> Path:
        """Returns the path unchanged if it is in one of the folders after all its links are resolved.

        Raises:
            StorageError: the path is outside of the folders.
        """
        if not self.contain(path):
            raise StorageError(path.name, LINK_PROBLEM, LINK_REMEDY)
        return path
