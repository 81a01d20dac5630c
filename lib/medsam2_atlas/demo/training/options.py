"""How the demo weights are made."""

from __future__ import annotations

from dataclasses import dataclass

DEMO_MARK = "demo weights: synthetic phantoms only"


@dataclass(frozen=True)
class DemoTraining:
    """How the demo weights are made; the defaults made the ones that are shipped. steps: with boxes, then with clicks too."""

    seed: int = 7
    patients: int = 56
    steps: int = 4000
    click_steps: int = 1200
    learning_rate: float = 1e-3
    click_learning_rate: float = 4e-4
    workers: int = 2
    save_every: int = 100
