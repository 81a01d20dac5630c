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
    """Work that waits until the gate opens, and reports its progress meanwhile."""

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


def test_jobs_run_in_turn_and_report_their_place(queue: JobQueue) -> None:
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


def test_a_full_queue_says_when_to_try_again(queue: JobQueue) -> None:
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


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_report(queue: JobQueue) -> None:
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
    assert queue.cancel(running.id).state == "cancelled"  # a second time has no effect
    with pytest.raises(NotFoundError):
        queue.cancel("none")


def test_the_queue_continues_after_a_failed_job(queue: JobQueue) -> None:
    def fails() -> None:
        raise MemoryError("too large")

    job = queue.submit("m", "a", fails)
    with pytest.raises(MemoryError):
        job.outcome.result(10)
    assert queue.describe(job)["error"] == "too large"
    assert queue.submit("m", "b", lambda: 3).outcome.result(10) == 3


def test_results_of_old_jobs_are_disposed_of(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_stopping_cancels_running_and_waiting_jobs() -> None:
    queue = JobQueue()
    gate = Gate()
    running = queue.submit("m", "a", gate)
    gate.began.wait(10)
    waiting = queue.submit("m", "b", lambda: None)
    queue.stop()
    for job in (running, waiting):
        with pytest.raises(CancelledError):
            job.outcome.result(10)
        assert queue.describe(job)["reason"] == "the server is stopping"


def test_a_job_has_a_reason_only_if_no_person_has_cancelled_it(queue: JobQueue) -> None:
    gate = Gate()
    running, erased = queue.submit("m", "a", gate), queue.submit("m", "b", lambda: None)
    gate.began.wait(10)
    queue.cancel(running.id)
    queue.abandon(running, "nobody has followed it")  # too late
    queue.forget(lambda job: job is erased)
    assert "reason" not in queue.describe(running)
    assert queue.describe(erased)["reason"] == "its study was erased"


def test_a_part_of_a_stage_reports_fractions_of_the_whole() -> None:
    reported: list[Any] = []

    def note(stage: str, share: float, organ: int | None = None) -> None:
        reported.append((stage, share, organ))

    with reporting(note):
        part(current(), 0.5, 1.0)("s", 0.5, 3)
    current()("s", 0.1)
    assert reported == [("s", 0.75, 3)]


class Awkward(BaseException):
    """An exception that no job should raise."""


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), Awkward(), MemoryError(), GeneratorExit()]
)
def test_no_error_of_a_job_ends_the_queue_or_the_waiting_thread(queue: JobQueue, error: BaseException) -> None:
    def work() -> None:
        raise error

    failed = queue.submit("m", "a", work).outcome.exception(10)
    assert isinstance(failed, Exception)
    assert not isinstance(failed, StopIteration)
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"


def test_cancelling_a_waiter_does_not_end_the_queue(queue: JobQueue) -> None:
    gate = Gate()
    job = queue.submit("m", "a", gate)
    gate.began.wait(10)
    job.outcome.cancel()  # asyncio does this if a waiting request is cancelled
    gate.open.set()
    assert job.outcome.result(10) == "through"
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"


def test_a_failing_disposal_does_not_stop_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispose(result: Any) -> None:
        raise KeyError(result)

    queue = JobQueue(limit=2, dispose=dispose)
    monkeypatch.setattr("medsam2_atlas.base.jobs._KEPT_SECONDS", -1.0)
    assert queue.submit("m", "a", lambda: "first").outcome.result(10) == "first"
    until(lambda: queue.counts()["running"] == 0, 10)
    assert queue.submit("m", "b", lambda: "next").outcome.result(10) == "next"
    queue.stop()


def test_stopping_the_queue_releases_waiters_of_a_stuck_job() -> None:
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
