"""The queue of jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.base.job_line import QueueFullError
from medsam2_atlas.base.jobs import CancelledError, Job, JobQueue, StoppingError
from medsam2_atlas.base.progress import current, part, reporting
from waiting import until


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(limit=2)
    yield queue
    queue.stop()


class Gate:
    """Work that waits until it is let through, telling how far it is meanwhile."""

    def __init__(self) -> None:
        self.open, self.began = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        while not self.open.is_set():
            current()("waiting", 0.25)
            time.sleep(0.005)
        current()("leaving", 0.5)
        current()("leaving", 0.75, 6)
        return "through"


def test_jobs_are_done_in_turn_and_tell_their_place(queue: JobQueue) -> None:
    gate = Gate()
    first = queue.submit("unet_3d", "a", gate)
    gate.began.wait(10)
    second = queue.submit("unet_3d", "b", lambda: "second")
    third = queue.submit("unet_3d", "c", lambda: "third")
    assert [queue.describe(job)["state"] for job in (first, second, third)] == ["running", "queued", "queued"]
    assert [queue.describe(job)["position"] for job in (second, third)] == [1, 2]
    assert queue.job(first.id) is first
    gate.open.set()
    assert [job.outcome.result(10) for job in (first, second, third)] == ["through", "second", "third"]
    about = queue.describe(first)
    until(lambda: queue.describe(first)["state"] == "done", 10)
    assert (about["state"], about["stage"], about["share"], about["organs"]) == ("done", "leaving", 1.0, {"6": 0.75})
    assert set(about["stage_seconds"]) == {"waiting", "leaving"}


def test_a_full_queue_reports_when_to_try_again(queue: JobQueue) -> None:
    gate = Gate()
    queue.submit("m", "a", gate)
    gate.began.wait(10)
    waiting = [queue.submit("m", "b", lambda: None) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 jobs wait") as caught:
        queue.submit("m", "c", lambda: None)
    assert caught.value.retry_after >= 1
    gate.open.set()
    waiting[1].outcome.result(10)
    queue.submit("m", "c", lambda: None).outcome.result(10)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_where_it_next_tells(queue: JobQueue) -> None:
    gate = Gate()
    running = queue.submit("m", "a", gate)
    gate.began.wait(10)
    ran: list[str] = []
    waiting = queue.submit("m", "b", lambda: ran.append("b"))
    queue.cancel(waiting.id)
    with pytest.raises(CancelledError):
        waiting.outcome.result(0)
    queue.cancel(running.id)
    with pytest.raises(CancelledError, match="during waiting"):
        running.outcome.result(10)
    assert queue.submit("m", "c", lambda: "goes on").outcome.result(10) == "goes on"
    assert ran == []
    assert queue.describe(running)["state"] == "cancelled"
    assert queue.cancel(running.id).state == "cancelled"  # once more changes nothing
    with pytest.raises(NotFoundError):
        queue.cancel("none")


def test_a_job_that_fails_tells_its_waiter_and_the_queue_goes_on(queue: JobQueue) -> None:
    def fails() -> None:
        raise MemoryError("too large")

    job = queue.submit("m", "a", fails)
    with pytest.raises(MemoryError):
        job.outcome.result(10)
    assert queue.describe(job)["error"] == "too large"
    assert queue.submit("m", "b", lambda: 3).outcome.result(10) == 3


def test_what_old_jobs_left_is_disposed_of(monkeypatch: pytest.MonkeyPatch) -> None:
    disposed: list[str] = []
    queue = JobQueue(limit=5, dispose=disposed.append)
    old: list[Job] = [queue.submit("m", "a", lambda n=n: f"file {n}") for n in range(2)]
    assert [job.outcome.result(10) for job in old] == ["file 0", "file 1"]
    until(lambda: all(job.state == "done" for job in old), 10)
    queue.submit("m", "b", lambda: "x").outcome.result(10)
    assert disposed == []
    old[0].ended = time.time() - 3600
    queue.submit("m", "c", lambda: "y").outcome.result(10)
    assert disposed == ["file 0"]
    with pytest.raises(NotFoundError):
        queue.job(old[0].id)
    queue.stop()


def test_stopping_cancels_what_runs_and_waits() -> None:
    queue = JobQueue()
    gate = Gate()
    running = queue.submit("m", "a", gate)
    gate.began.wait(10)
    waiting = queue.submit("m", "b", lambda: None)
    queue.stop()
    for job in (running, waiting):
        with pytest.raises(CancelledError):
            job.outcome.result(10)


def test_a_part_of_a_stage_tells_shares_of_the_whole() -> None:
    told: list[Any] = []

    def note(stage: str, share: float, organ: int | None = None) -> None:
        told.append((stage, share, organ))

    with reporting(note):
        part(current(), 0.5, 1.0)("s", 0.5, 3)
    current()("s", 0.1)
    assert told == [("s", 0.75, 3)]


class Awkward(BaseException):
    """An exception that no job should raise."""


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), Awkward(), MemoryError(), GeneratorExit()]
)
def test_nothing_that_a_job_raises_ends_the_queue_or_its_waiters_thread(queue: JobQueue, error: BaseException) -> None:
    def work() -> None:
        raise error

    failed = queue.submit("m", "a", work).outcome.exception(10)
    assert isinstance(failed, Exception)
    assert not isinstance(failed, StopIteration)
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"


def test_a_waiter_that_is_cancelled_does_not_end_the_queue(queue: JobQueue) -> None:
    gate = Gate()
    job = queue.submit("m", "a", gate)
    gate.began.wait(10)
    job.outcome.cancel()  # as asyncio does with the future behind one that is cancelled
    gate.open.set()
    assert job.outcome.result(10) == "through"
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"


def test_a_result_that_cannot_be_disposed_of_does_not_keep_jobs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispose(result: Any) -> None:
        raise KeyError(result)

    queue = JobQueue(limit=2, dispose=dispose)
    monkeypatch.setattr("medsam2_atlas.base.jobs._KEPT_SECONDS", -1.0)
    assert queue.submit("m", "a", lambda: "first").outcome.result(10) == "first"
    until(lambda: queue.counts()["running"] == 0, 10)
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"
    queue.stop()


def test_nobody_waits_for_a_job_that_never_ends_once_the_queue_stops() -> None:
    queue, gate = JobQueue(limit=2), threading.Event()
    stuck = queue.submit("m", "a", gate.wait)  # like native code, it reports no progress
    until(lambda: queue.describe(stuck)["state"] == "running", 10)
    began = time.monotonic()
    queue.stop(0.2)
    assert isinstance(stuck.outcome.exception(0), StoppingError)
    with pytest.raises(StoppingError, match="Try again"):
        queue.submit("m", "b", lambda: "next")
    assert time.monotonic() - began < 5
    gate.set()
