"""An observer of stages that records each change."""

from __future__ import annotations

from medsam2_atlas.base.stages import Observer


class StageRecord(Observer):
    """Records each change of the stage.

    Attributes:
        changes: the changes as `before > after`, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []

    def switch(self, before: str) -> None:
        """Records the change."""
        self.changes.append(f"{before} > {self.running}")


NETWORK = ["other > network", "network > other"]
"""The changes of a run with one network."""
