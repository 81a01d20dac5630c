"""A queue that runs one job at a time, with progress, cancelling and fair turns (see `job_line`).

Concurrency contract. One lock protects the list of jobs and every field of every job. It is never held while a job works or a
caller waits. A job's work runs in the queue's only thread. Its progress callable takes the lock for a moment. A running job
stops only there: if it was cancelled, its next progress report raises `CancelledError`. A waiting job is cancelled immediately.
Jobs that have ended are forgotten after a while, and their results are then disposed of.

No error of a job, a disposal or a waiter ends the queue's thread. When the queue stops, each `outcome` is set immediately, so
that nobody waits for a job whose native code never reports progress. If the job still produces a result, it is disposed of.
"""

from __future__ import annotations

import logging
import secrets
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future, InvalidStateError
from typing import Any

from medsam2_atlas.base.job import ENDED, CancelledError, Job, State, StoppingError, unknown_job
from medsam2_atlas.base.job_line import JobLine
from medsam2_atlas.base.progress import Progress, reporting
from medsam2_atlas.base.time_left import TimeLeft

__all__ = ["ENDED", "CancelledError", "Job", "JobQueue", "State", "StoppingError", "unknown_job"]

log = logging.getLogger(__name__)

_KEPT_SECONDS = 600.0
_KEPT_JOBS = 500
_GUESS_SECONDS = 30.0


class JobQueue:
    """A queue of jobs and the thread that runs them."""

    def __init__(self, limit: int = 16, dispose: Callable[[Any], None] | None = None, per_person: int = 4) -> None:
        """Starts the thread of an empty queue.

        Args:
            limit: max number of waiting jobs.
            dispose: called with a job's result when the job is forgotten.
            per_person: max number of waiting jobs of each person who has logged in.
        """
        self._dispose = dispose
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: JobLine[Job] = JobLine(limit, per_person)
        self._jobs: dict[str, Job] = {}
        self._running: Job | None = None
        self._durations: deque[float] = deque(maxlen=20)
        self._time_left = TimeLeft()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def submit(
        self,
        kind: str,
        subject: str,
        work: Callable[[], Any],
        *,
        owner: str = "",
        person: str = "",
        interactive: bool = False,
        attended: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Adds a job to the queue.

        Args:
            kind: what the job does, such as a model's name.
            subject: what it works on, such as a study.
            work: the function that does the work. It reports progress to `progress.current()`.
            owner: id of the person who submits it; empty if the server has no login.
            person: the person's name.
            interactive: whether it goes before waiting jobs that are not interactive.
            attended: whether it belongs to a viewer, for the job's description; `abandon` cancels it.
            options: what is asked for besides kind and subject, as JSON values, for the job's description.

        Raises:
            QueueFullError: too many jobs wait, or too many of this person's jobs.
            StoppingError: the queue has been stopped.
        """
        with self._lock:
            if self._stopping:
                raise StoppingError
            self._waiting.check(owner, self._wait_seconds())
            self._forget_old()
            job = Job(secrets.token_urlsafe(16), kind, subject, owner, person, work, interactive, attended, options or {})
            job.outcome.set_running_or_notify_cancel()  # cancelling one waiter must not cancel the job for other waiters
            self._jobs[job.id] = job
            self._waiting.add(job)
            self._wake.notify_all()
        return job

    def job(self, name: str) -> Job:
        """Returns the job with an id.

        Raises:
            NotFoundError: no job has this id, or it has been forgotten.
        """
        with self._lock:
            if name not in self._jobs:
                raise unknown_job(name)
            return self._jobs[name]

    def describe(self, job: Job) -> dict[str, Any]:
        """Returns the description of a job for clients.

        `position` is the number of jobs that end before it begins. `seconds_left` is the estimated time until it is done, None
        if it is unknown; see `time_left`.
        """
        with self._lock:
            about: dict[str, Any] = {
                "id": job.id,
                "kind": job.kind,
                "subject": job.subject,
                "owner": job.person,
                "state": "cancelling" if job.cancelling and job.state == "running" else job.state,
                "stage": job.stage,
                "share": round(job.share, 4),
                "organs": {str(k): round(share, 4) for k, share in job.organs.items()},
                "stage_seconds": {stage: round(s, 3) for stage, s in job.seconds.items()},
                "submitted": job.submitted,
                "started": job.started,
                "ended": job.ended,
                "revision": job.revision,
                "attended": job.attended,
                "options": dict(job.options),
                "seconds_left": self._seconds_left(job),
            }
            if job.state == "queued":
                ahead = self._waiting.place(job) + (self._running is not None)
                about |= {"position": ahead, "expected_wait_s": round(ahead * self._usual_seconds())}
            if job.reason:
                about |= {"reason": job.reason}
            failed = job.state == "failed" and job.outcome.done()
            error = job.outcome.exception() if failed else None
            return about | ({"error": str(error)} if error is not None else {})

    def jobs(self) -> list[Job]:
        """Returns all jobs that are not forgotten yet, in the order of submission."""
        with self._lock:
            return list(self._jobs.values())

    def forget(self, erased: Callable[[Job], bool]) -> None:
        """Cancels the jobs of an erased study, and forgets those that have ended, with their results.

        Args:
            erased: returns whether a job's study was erased.
        """
        for job in [job for job in self.jobs() if erased(job)]:
            reason = "its study was erased"
            self._cancel(job, CancelledError(job.kind, f"was cancelled: {reason}."), reason)
            if job.outcome.done():
                self._drop(job)

    def counts(self) -> dict[str, int]:
        """Returns the number of running and waiting jobs."""
        with self._lock:
            return {"running": int(self._running is not None), "waiting": len(self._waiting)}

    def cancel(self, name: str) -> Job:
        """Cancels a job: immediately if it waits, else at its next progress report.

        Raises:
            NotFoundError: no job has this id.
        """
        job = self.job(name)
        self._cancel(job, CancelledError(job.kind, "was cancelled while it waited."))
        return job

    def abandon(self, job: Job, reason: str) -> None:
        """Cancels a job whose client has gone.

        Args:
            job: the job; one that has ended stays as it is.
            reason: why, for the job's description.
        """
        self._cancel(job, CancelledError(job.kind, f"was cancelled: {reason}."), reason)

    def stop(self, seconds: float = 10.0) -> None:
        """Cancels all jobs, releases all waiters, and ends the thread.

        Args:
            seconds: max time to wait for a running job; a job that takes longer ends with the process.
        """
        with self._lock:
            self._stopping = True
            open_jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._wake.notify_all()
        for job in open_jobs:
            self._cancel(job, StoppingError(), "the server is stopping")
            _settle(job.outcome, None, StoppingError())
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _cancel(self, job: Job, error: Exception, reason: str = "") -> None:
        """Cancels a job; `reason` is empty if somebody has asked for it. A job that is being cancelled keeps its reason."""
        waited = False
        with self._lock:
            if job.state not in ENDED and not job.cancelling:
                job.reason = reason
            if job.state == "queued":
                self._waiting.remove(job)
                self._end(job, "cancelled")
                waited = True
            elif job.state == "running":
                job.cancelling = True
                job.revision += 1
        if waited:
            _settle(job.outcome, None, error)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    return
                job = self._running = self._waiting.take()
                job.state, job.started, job.revision = "running", time.time(), job.revision + 1
                job._stage_began = time.perf_counter()
            try:
                self._do(job)
            except BaseException:  # an error of a job's waiter must not end the thread
                log.exception("the outcome of job %s could not be reported", job.id)

    def _do(self, job: Job) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            with reporting(self._reporter(job)):
                result = job.work()
        except (StopIteration, FutureCancelledError) as caught:  # these have another meaning for asyncio
            error = RuntimeError(f"the job raised {caught!r}")
            error.__cause__ = caught
        except Exception as caught:  # noqa: BLE001 any error is passed to the job's waiters; the thread continues
            error = caught
        except BaseException as caught:  # noqa: BLE001 SystemExit and similar would end the waiter's event loop
            error = RuntimeError(f"the job raised {caught!r}")
            error.__cause__ = caught
        with self._lock:
            self._running = None
            self._durations.append(time.time() - (job.started or job.submitted))
            state: State = "done" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
            self._end(job, state)
            if state == "done":
                self._time_left.add(job.kind, job.seconds)
        # Without the lock: callbacks of waiters run in this thread, and may call the queue.
        if not _settle(job.outcome, result, error) and error is None:
            self._dispose_of(job, result)

    def _end(self, job: Job, state: State) -> None:
        if job.stage:
            job.seconds[job.stage] = job.seconds.get(job.stage, 0.0) + time.perf_counter() - job._stage_began
        job.state, job.ended, job.revision = state, time.time(), job.revision + 1
        job.share = 1.0 if state == "done" else job.share
        job.work = _nothing  # the function may keep an image in memory

    def _reporter(self, job: Job) -> Progress:
        def report(stage: str, share: float, organ: int | None = None) -> None:
            now = time.perf_counter()
            with self._lock:
                if stage != job.stage:
                    if job.stage:
                        job.seconds[job.stage] = job.seconds.get(job.stage, 0.0) + now - job._stage_began
                    job.stage, job._stage_began, job.organs = stage, now, {}
                if organ is None:
                    job.share = min(1.0, max(0.0, share))
                else:
                    job.organs[organ] = min(1.0, max(0.0, share))
                job.revision += 1
                if job.cancelling:
                    raise CancelledError(job.kind, f"was cancelled during {stage}.")

        return report

    def _seconds_left(self, job: Job) -> int | None:
        if job.state != "running" or job.cancelling:
            return None
        elapsed = time.perf_counter() - job._stage_began
        left = self._time_left.of(job.kind, job.seconds, job.stage, elapsed, job.share)
        return None if left is None else round(left)

    def _usual_seconds(self) -> float:
        return statistics.median(self._durations) if self._durations else _GUESS_SECONDS

    def _wait_seconds(self) -> int:
        return max(1, round(self._usual_seconds()))

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.state in ENDED]
        late = [job for job in ended if time.time() - (job.ended or 0) > _KEPT_SECONDS]
        for job in [*late, *ended[: max(0, len(ended) - _KEPT_JOBS)]]:
            if self._jobs.pop(job.id, None) and job.state == "done" and job.outcome.done() and not job.outcome.exception():
                self._dispose_of(job, job.outcome.result())

    def _drop(self, job: Job) -> None:
        """Forgets a job that has ended, and disposes of its result."""
        with self._lock:
            known = self._jobs.pop(job.id, None)
        if known is not None and not job.outcome.exception():
            self._dispose_of(job, job.outcome.result())

    def _dispose_of(self, job: Job, result: Any) -> None:
        try:
            if self._dispose:
                self._dispose(result)
        except Exception:  # the next job must still run
            log.exception("the result of job %s cannot be removed", job.id)


def _settle(outcome: Future[Any], result: Any, error: Exception | None) -> bool:
    """Passes a job's result or error to its waiters; returns False if they already had one."""
    try:
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)
    except InvalidStateError:
        return False
    return True


def _nothing() -> None:
    """Does nothing; replaces a job's work after the job has ended."""
