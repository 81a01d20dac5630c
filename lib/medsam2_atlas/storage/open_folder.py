"""The parts of an open studies folder that changes of images and label maps use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.reconcile import Reconciler


@dataclass(frozen=True)
class OpenFolder:
    """An open studies folder.

    Attributes:
        path: the folder.
        work: its work folder.
        index: the index of the studies. Each change runs in a write transaction of the index.
        roots: folders that links may lead to.
        reconciler: records changes by other programs.
    """

    path: Path
    work: WorkFolder
    index: Index
    roots: Roots
    reconciler: Reconciler
