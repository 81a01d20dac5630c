"""Cancels the jobs of viewers that have gone, for example because the browser's tab was closed.

A viewer starts a run with `attended=true` and follows its job. The job is cancelled once nobody has followed it for
`server_gone_seconds`, so a page that is loaded again finds its job in time. Other jobs are never cancelled here: scripts may
come back later for their results.

Concurrency contract. Only the event loop uses an `Attendance`, so it needs no lock; the queue has its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from medsam2_atlas.base.jobs import ENDED, Job, JobQueue

log = logging.getLogger(__name__)

_MAX_TURN_SECONDS = 1.0


@dataclass
class _Attended:
    """A job of a viewer. followers: number of open event streams; alone: seconds since the last one, or the last question."""

    job: Job
    followers: int = 0
    alone: float = 0.0


class Attendance:
    """Knows which jobs their viewers still follow."""

    def __init__(self, queue: JobQueue, seconds: float) -> None:
        """Creates an empty list of jobs.

        Args:
            queue: the queue of the jobs.
            seconds: time without a follower after which a job is cancelled; 0 for never.
        """
        self._queue, self._seconds = queue, seconds
        self._jobs: dict[str, _Attended] = {}

    @property
    def turn_seconds(self) -> float:
        """The time between two checks."""
        return min(_MAX_TURN_SECONDS, self._seconds / 4)

    def begin(self, job: Job) -> None:
        """Adds a job that a viewer has started."""
        if self._seconds:
            self._jobs[job.id] = _Attended(job)

    def asked(self, job: Job) -> None:
        """Notes that somebody asked for the progress of a job."""
        if job.id in self._jobs:
            self._jobs[job.id].alone = 0.0

    @contextmanager
    def following(self, job: Job) -> Iterator[None]:
        """Notes that somebody follows a job for the duration of the block."""
        known = self._jobs.get(job.id, _Attended(job))
        known.followers += 1
        try:
            yield
        finally:
            known.followers -= 1
            known.alone = 0.0

    def cancel_abandoned(self, passed: float) -> list[Job]:
        """Cancels the jobs that nobody has followed for too long, and returns them.

        Args:
            passed: time since the last call, in seconds. The caller adds up its turns instead of reading a clock, so that the
                viewers of a server that was suspended still have time to connect again.
        """
        found = []
        for known in list(self._jobs.values()):
            known.alone += passed
            if known.job.state in ENDED:
                del self._jobs[known.job.id]
            elif not known.followers and known.alone >= self._seconds:
                del self._jobs[known.job.id]
                self._queue.abandon(known.job, f"nobody has followed it for {self._seconds:g} s")
                found.append(known.job)
        return found

    async def watch(self, record: Callable[[Job], None]) -> None:
        """Cancels abandoned jobs until the task is cancelled.

        Args:
            record: called in another thread with each job that was cancelled; writes it to the audit log.
        """
        while self._seconds:
            await asyncio.sleep(self.turn_seconds)
            for job in self.cancel_abandoned(self.turn_seconds):
                log.info("job %s of %s was cancelled: its viewer has gone (%s)", job.id, job.kind, job.reason)
                await run_in_threadpool(record, job)
