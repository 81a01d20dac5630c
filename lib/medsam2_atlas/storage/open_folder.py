"""The parts of an open studies folder that its changes use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.reconcile import Reconciler


@dataclass(frozen=True)
class OpenFolder:
    """A studies folder that is open.

    Attributes:
        path: of the folder.
        work: its work folder.
        index: of the studies; its write transaction is held during a change.
        roots: folders that links may lead to.
        reconciler: takes in changes by other programs.
    """

    path: Path
    work: WorkFolder
    index: Index
    roots: Roots
    reconciler: Reconciler
