"""The options of the demo weights' training."""

from __future__ import annotations

from dataclasses import dataclass

DEMO_MARK = "demo weights: synthetic phantoms only"


@dataclass(frozen=True)
class DemoTraining:
    """The options of the demo weights' training. The defaults produced the shipped weights.

    Attributes:
        seed: seed of patients and all random choices.
        patients: number of phantoms.
        steps: steps with boxes only.
        click_steps: later steps with clicks too.
        learning_rate: max learning rate of AdamW for `steps`.
        click_learning_rate: max learning rate of AdamW for `click_steps`.
        workers: number of processes that render phantoms.
        save_every: steps between saved states.
    """

    seed: int = 7
    patients: int = 56
    steps: int = 4000
    click_steps: int = 1200
    learning_rate: float = 1e-3
    click_learning_rate: float = 4e-4
    workers: int = 2
    save_every: int = 100
