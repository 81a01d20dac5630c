"""Records label maps that were refused because they would lose organs; sending such a label map again confirms it.

3D Slicer's and MONAI Label's own clients cannot show a question. Their users press *Submit* a second time instead.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

CONFIRM_SECONDS = 600.0
"""Time in seconds for which a refusal is kept."""
_KEPT = 1000
"""Max number of refusals that are kept."""


@dataclass(frozen=True)
class Refusal:
    """A label map that was refused.

    Attributes:
        study: name of the study.
        tag: tag of the label map.
        user: id of the sender.
        digest: hash of the label map's voxels and grid.
        organs: names of the organs that would be lost.
    """

    study: str
    tag: str
    user: str
    digest: str
    organs: tuple[str, ...]


class Confirmations:
    """The refusals of the last ten minutes. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, kept: int = _KEPT) -> None:
        """Starts without any refusal.

        Args:
            clock: returns the time in seconds; it must never go back.
            kept: max number of refusals that are kept; the oldest are removed first.
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
