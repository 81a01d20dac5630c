"""Jobs of viewers that have gone are cancelled; all other jobs go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.test_access import here
from base.test_jobs import Gate
from medsam2_atlas.base.jobs import Job, JobQueue
from server.application import create_app
from server.attendance import PAGE_SECONDS, Attendance
from server.config import ServerConfig
from token_files import bearer, token_of, tokens_for
from waiting import until


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(limit=4)
    yield queue
    queue.stop()


@pytest.fixture
def job(queue: JobQueue) -> Job:
    return queue.submit("unet_3d", "case-7", Gate())


def state(queue: JobQueue, job: Job) -> str:
    return str(queue.describe(job)["state"])


def test_a_job_that_nobody_follows_is_cancelled_with_the_reason(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    assert attendance.cancel_abandoned(9.9) == []
    assert attendance.cancel_abandoned(0.2) == [job]
    until(lambda: state(queue, job) == "cancelled", 5)
    assert queue.describe(job)["reason"] == "nobody has followed it for 10 s"
    assert attendance.cancel_abandoned(100) == []


def test_a_job_that_waits_for_its_turn_is_cancelled_at_once(queue: JobQueue, job: Job) -> None:
    attendance, waiting = Attendance(queue, 10), queue.submit("unet_3d", "case-8", Gate())
    attendance.begin(waiting)
    attendance.cancel_abandoned(10)
    assert state(queue, waiting) == "cancelled"
    with pytest.raises(Exception, match="was cancelled: nobody has followed it"):
        waiting.outcome.result(1)
    until(lambda: state(queue, job) == "running", 5)


def test_a_job_survives_a_reload_of_its_page(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    with attendance.following(job):
        attendance.cancel_abandoned(100)
    attendance.cancel_abandoned(8)
    attendance.asked(job)  # the page loads
    attendance.cancel_abandoned(8)
    with attendance.following(job), attendance.following(job):
        attendance.cancel_abandoned(100)
    until(lambda: state(queue, job) == "running", 5)
    attendance.cancel_abandoned(10)
    until(lambda: state(queue, job) == "cancelled", 5)


def test_a_viewer_that_loads_from_a_slow_line_keeps_its_job(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    with attendance.following(job):  # the old page ends after the new one has begun to load
        attendance.loads(job)
    attendance.cancel_abandoned(PAGE_SECONDS - 1)
    attendance.asked(job)  # a question does not shorten the time
    assert attendance.cancel_abandoned(1 + 9.9) == []
    assert attendance.cancel_abandoned(0.2) == [job]


def test_a_viewer_that_is_closed_after_it_was_loaded_again_ends_its_job(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    attendance.loads(job)
    with attendance.following(job):
        attendance.cancel_abandoned(1)
    assert attendance.cancel_abandoned(9.9) == []
    assert attendance.cancel_abandoned(0.2) == [job]


def test_a_worklist_keeps_a_job_after_its_viewer_has_been_closed(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    attendance.asked(job, PAGE_SECONDS)
    with attendance.following(job):
        attendance.cancel_abandoned(1)
    attendance.asked(job)  # a question does not shorten the time
    assert attendance.cancel_abandoned(PAGE_SECONDS - 1 + 9.9) == []
    assert attendance.cancel_abandoned(0.2) == [job]


@pytest.mark.parametrize("worklist_first", [True, False])
def test_the_times_of_a_worklist_and_of_a_loading_viewer_pass_together(queue: JobQueue, job: Job, worklist_first: bool) -> None:
    attendance = Attendance(queue, 10)
    attendance.begin(job)
    if worklist_first:
        attendance.asked(job, PAGE_SECONDS)
    attendance.loads(job)
    if not worklist_first:
        attendance.asked(job, PAGE_SECONDS)
    for seconds in (PAGE_SECONDS / 3, PAGE_SECONDS * 2 / 3, 9.9):
        assert attendance.cancel_abandoned(seconds) == []
    assert attendance.cancel_abandoned(0.2) == [job]


@pytest.mark.parametrize("path", ["/", "/worklist/summary", "/ohif/monai-label?StudyInstanceUIDs=1.2.3"])
def test_an_open_page_of_the_jobs_owner_counts_as_following_for_a_minute(path: str, tmp_path: Path) -> None:
    tokens = tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "reviewer"})
    app = create_app(ServerConfig(tokens=str(tokens)))
    client, attendance, queue = here(app, follow_redirects=False), app.state.attendance, app.state.queue
    jobs = [queue.submit("unet_3d", "case-7", Gate(), owner=f"token:{name}", attended=True) for name in ("kim", "lee")]
    for job in jobs:
        attendance.begin(job)
    client.get(path, headers=bearer(token_of("kim")))  # the summary itself needs studies
    assert attendance.cancel_abandoned(PAGE_SECONDS) == [jobs[1]]
    assert attendance.cancel_abandoned(10) == [jobs[0]]
    queue.stop()


def test_jobs_of_scripts_are_never_cancelled(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 10)
    with attendance.following(job):
        pass
    attendance.asked(job)
    assert attendance.cancel_abandoned(1000) == []
    assert not job.cancelling


def test_with_zero_seconds_no_job_is_cancelled(queue: JobQueue, job: Job) -> None:
    attendance = Attendance(queue, 0)
    attendance.begin(job)
    assert attendance.cancel_abandoned(1000) == []
    asyncio.run(asyncio.wait_for(attendance.watch(lambda _: None), 5))  # ends at once


def test_each_cancelled_job_is_recorded(queue: JobQueue, job: Job) -> None:
    attendance, recorded = Attendance(queue, 0.04), list[Job]()
    attendance.begin(job)

    async def watch() -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(attendance.watch(recorded.append), 1)

    asyncio.run(watch())
    assert recorded == [job]


def test_an_error_of_one_job_does_not_end_the_watch(queue: JobQueue, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    attendance, recorded = Attendance(queue, 0.04), list[Job]()
    others = [queue.submit("unet_3d", name, Gate()) for name in ("stuck", "case-9")]
    for one in (job, *others):
        attendance.begin(one)
    abandon = queue.abandon

    def refuses(one: Job, reason: str) -> None:
        if one.subject == "stuck":
            raise RuntimeError("cannot be cancelled")
        abandon(one, reason)

    def record(one: Job) -> None:
        recorded.append(one)
        raise OSError("the disk is full")

    async def watch() -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(attendance.watch(record), 1)

    monkeypatch.setattr(queue, "abandon", refuses)
    asyncio.run(watch())
    assert recorded == [job, others[1]]


def test_a_job_that_has_ended_stays_as_it_is(queue: JobQueue) -> None:
    attendance, gate = Attendance(queue, 10), Gate()
    job = queue.submit("unet_3d", "case-7", gate)
    attendance.begin(job)
    gate.open.set()
    assert job.outcome.result(5) == "through"
    assert attendance.cancel_abandoned(100) == []
    queue.abandon(job, "late")
    assert state(queue, job) == "done"
    assert "reason" not in queue.describe(job)
