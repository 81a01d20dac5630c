"""Remembers label maps that were refused because they would lose organs, so that sending one again confirms it.

3D Slicer's and MONAI Label's own clients cannot answer a question: their users press *Submit* a second time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

CONFIRM_SECONDS = 600.0
"""How long a refusal is remembered."""
_KEPT = 1000
"""Max number of refusals that are remembered."""


@dataclass(frozen=True)
class Refusal:
    """A label map that was refused. user: id of the sender. digest: of voxels and grid. organs: names of the lost ones."""

    study: str
    tag: str
    user: str
    digest: str
    organs: tuple[str, ...]


class Confirmations:
    """The refusals of the last minutes. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, kept: int = _KEPT) -> None:
        """
        Args:
            clock: returns seconds that never go back.
            kept: max number of refusals that are remembered; the oldest are dropped first.
        """
        self._clock, self._kept = clock, kept
        self._lock = threading.Lock()
        self._times: OrderedDict[Refusal, float] = OrderedDict()

    def confirms(self, refusal: Refusal) -> bool:
        """Returns whether the same refusal was recorded in the last ten minutes, and removes it; otherwise records it."""
        now = self._clock()
        with self._lock:
            while self._times and now - next(iter(self._times.values())) > CONFIRM_SECONDS:
                self._times.popitem(last=False)
            if self._times.pop(refusal, None) is not None:
                return True
            self._times[refusal] = now
            while len(self._times) > self._kept:
                self._times.popitem(last=False)
        return False
