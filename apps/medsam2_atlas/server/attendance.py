"""Cancels the jobs of viewers that have gone, for example because the browser's tab was closed.

A viewer starts a run with `attended=true` and follows its job. The job is cancelled once nobody has followed it for
`server_gone_seconds`. Two pages get more time. A viewer that is loaded again may need longer to find its job; until then, for a
minute at most, it counts as following (`viewer_loads`). The worklist shows the jobs too, but asks the server only once a minute
while it is hidden (`page_open`). Other jobs are never cancelled here: scripts may come back later for their results.

Concurrency contract. Only the event loop uses an `Attendance`, so it needs no lock; the queue has its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from medsam2_atlas.base.jobs import ENDED, Job, JobQueue
from server.owners import own_jobs
from server.people import User

log = logging.getLogger(__name__)

_MAX_TURN_SECONDS = 1.0
PAGE_SECONDS = 60.0
"""Max time until a viewer has loaded from a slow line (20 MB of scripts) and follows its job; also the time until a hidden page
asks the server again, because browsers run the timers of such a page only once a minute."""


@dataclass
class _Attended:
    """A job of a viewer.

    Attributes:
        job: the job.
        followers: number of open event streams.
        alone: seconds since the last event stream or the last question; negative while a page still counts as open.
        loading: seconds that a viewer still has to find the job; 0 if none is loading.
    """

    job: Job
    followers: int = 0
    alone: float = 0.0
    loading: float = 0.0

    def spend(self, seconds: float) -> None:
        """Notes that time has passed. While a viewer is loading, nobody misses the job; the time of an open page passes too."""
        loading = min(seconds, self.loading)
        if loading:
            self.loading -= loading
            self.alone = min(0.0, self.alone + loading)
        self.alone += seconds - loading


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

    def asked(self, job: Job, seconds: float = 0.0) -> None:
        """Notes that somebody asked for the progress of a job.

        Args:
            job: the job.
            seconds: time for which this counts as following.
        """
        if job.id in self._jobs:
            self._jobs[job.id].alone = min(-seconds, self._jobs[job.id].alone)

    def loads(self, job: Job) -> None:
        """Notes that a viewer is loading which will follow the job, unless it is closed before."""
        if job.id in self._jobs:
            self._jobs[job.id].loading = PAGE_SECONDS

    @contextmanager
    def following(self, job: Job) -> Iterator[None]:
        """Notes that somebody follows a job for the duration of the block."""
        known = self._jobs.get(job.id, _Attended(job))
        known.followers += 1
        known.loading = 0.0  # the viewer has found its job
        try:
            yield
        finally:
            known.followers -= 1
            known.alone = min(0.0, known.alone)

    def cancel_abandoned(self, passed: float) -> list[Job]:
        """Cancels the jobs that nobody has followed for too long, and returns them.

        Args:
            passed: time since the last call, in seconds. The caller adds up its turns instead of reading a clock, so that the
                viewers of a server that was suspended still have time to connect again.
        """
        found = []
        for known in list(self._jobs.values()):
            known.spend(passed)
            if known.job.state in ENDED:
                del self._jobs[known.job.id]
            elif not known.followers and known.alone >= self._seconds:
                del self._jobs[known.job.id]
                try:
                    self._queue.abandon(known.job, f"nobody has followed it for {self._seconds:g} s")
                except Exception:  # the other jobs must still be watched
                    log.exception("job %s of %s cannot be cancelled", known.job.id, known.job.kind)
                else:
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
                try:
                    await run_in_threadpool(record, job)
                except Exception:  # the other jobs must still be watched
                    log.exception("the audit log does not contain that job %s was cancelled", job.id)


async def page_open(request: Request) -> None:
    """Notes that a person has a page open that shows their jobs. A dependency of routes."""
    for job in _jobs_of(request):
        attendance_of(request).asked(job, PAGE_SECONDS)


async def viewer_loads(request: Request) -> None:
    """Notes that a viewer is loading for a person, before the first of its scripts has arrived."""
    for job in _jobs_of(request):
        attendance_of(request).loads(job)


def attendance_of(request: Request) -> Attendance:
    """Returns the attendance of the server that gets a request."""
    attendance: Attendance = request.app.state.attendance
    return attendance


def _jobs_of(request: Request) -> list[Job]:
    """Returns the jobs of the person who sends a request."""
    user: User = request.scope["medsam2_atlas.user"]
    queue: JobQueue = request.app.state.queue
    return own_jobs(queue, user)
