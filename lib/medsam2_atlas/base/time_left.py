"""Estimates the time that a running job still needs, from the stages of earlier jobs of its kind.

The estimate scales the median duration of each stage by the job's own pace: a CT twice as large takes about twice as long in
each stage. Without an earlier job of the kind there is no estimate, because nobody knows which stages follow.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping

_KEPT = 9
"""Number of earlier jobs of each kind that count."""
_PACES = (0.2, 5.0)
"""Limits of the pace: the duration of a job's stages so far, relative to the medians."""
_MIN_SHARE = 0.05
"""Min completed fraction of a stage from which its own progress is extrapolated."""


class TimeLeft:
    """The durations of the stages of earlier jobs, by kind of job. Not thread-safe: the queue calls it under its lock."""

    def __init__(self) -> None:
        self._known: dict[str, deque[dict[str, float]]] = {}

    def add(self, kind: str, seconds: Mapping[str, float]) -> None:
        """Adds a job that is done.

        Args:
            kind: kind of the job.
            seconds: duration of each stage, in seconds; ignored if empty, as for a job that returned a stored result.
        """
        if seconds:
            self._known.setdefault(kind, deque(maxlen=_KEPT)).append(dict(seconds))

    def of(self, kind: str, ended: Mapping[str, float], stage: str, elapsed: float, share: float) -> float | None:
        """Returns the estimated time in seconds until a job is done; None if it is unknown.

        Args:
            kind: kind of the job.
            ended: time that the job has spent in each stage so far, in seconds, without the current turn.
            stage: the current stage; empty if none has begun.
            elapsed: time since the current stage began, in seconds.
            share: the completed fraction of the current stage, 0..1.
        """
        medians = self._medians(kind)
        if not medians:
            return None
        pace = _pace(medians, ended)
        later = sum(seconds for name, seconds in medians.items() if name not in ended and name != stage) * pace
        if not stage:
            return later
        now = medians.get(stage, 0.0) * pace - ended.get(stage, 0.0) - elapsed
        if share >= _MIN_SHARE:
            now = elapsed * (1 - share) / share
        elif stage not in medians:
            return None
        return later + max(0.0, now)

    def _medians(self, kind: str) -> dict[str, float]:
        """Returns the median duration of each stage that at least half of the earlier jobs had, in seconds."""
        jobs = self._known.get(kind, ())
        stages = {stage for job in jobs for stage in job}
        durations = {stage: [job[stage] for job in jobs if stage in job] for stage in stages}
        return {stage: statistics.median(found) for stage, found in durations.items() if 2 * len(found) >= len(jobs)}


def _pace(medians: Mapping[str, float], ended: Mapping[str, float]) -> float:
    usual = sum(medians[stage] for stage in ended if stage in medians)
    taken = sum(seconds for stage, seconds in ended.items() if stage in medians)
    return min(max(taken / usual, _PACES[0]), _PACES[1]) if usual > 0 else 1.0
