"""A user's choices that the record of a case does not depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.experiment.results import EmptyRule


@dataclass(frozen=True)
class Choice:
    """Which cases are run, how, and how their records are summarised.

    Attributes:
        images: folder of the CTs.
        labels: folder of the ground truth.
        counts: numbers of references for the curve over smaller atlases.
        empty: rule for empty masks in tables and tests.
        jobs: number of processes.
        seed: seed of bootstrap intervals and of the choice of references.
        strict: stop at the first case that cannot be used.
        changed_settings: settings that differ from their defaults, for the report.
    """

    images: Path
    labels: Path
    counts: tuple[int, ...] = ()
    empty: EmptyRule = "penalise"
    jobs: int = 1
    seed: int = 0
    strict: bool = False
    changed_settings: tuple[str, ...] = ()
