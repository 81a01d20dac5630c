"""The estimate of the time that a job still needs."""

from __future__ import annotations

import threading

import pytest

from medsam2_atlas.base import progress
from medsam2_atlas.base.jobs import JobQueue
from medsam2_atlas.base.time_left import TimeLeft
from waiting import until

USUAL = {"reading": 2.0, "registration": 10.0, "network": 60.0}


@pytest.fixture
def known() -> TimeLeft:
    found = TimeLeft()
    for factor in (0.9, 1.0, 1.2):
        found.add("atlas", {stage: seconds * factor for stage, seconds in USUAL.items()})
    return found


def test_without_an_earlier_job_of_the_kind_the_time_is_unknown(known: TimeLeft) -> None:
    assert known.of("unet_3d", {"reading": 1.0}, "network", 3.0, 0.5) is None
    known.add("unet_3d", {})  # it returned a stored result
    assert known.of("unet_3d", {"reading": 1.0}, "network", 3.0, 0.5) is None


def test_stages_that_follow_take_as_long_as_usual(known: TimeLeft) -> None:
    assert known.of("atlas", {}, "", 0.0, 0.0) == pytest.approx(72)
    assert known.of("atlas", {}, "reading", 0.5, 0.0) == pytest.approx(71.5)
    assert known.of("atlas", {"reading": 2.0}, "registration", 4.0, 0.0) == pytest.approx(66)
    assert known.of("atlas", {"reading": 2.0}, "registration", 400.0, 0.0) == pytest.approx(60)


def test_a_larger_ct_takes_longer_in_all_stages(known: TimeLeft) -> None:
    assert known.of("atlas", {"reading": 4.0, "registration": 20.0}, "network", 0.0, 0.0) == pytest.approx(120)
    assert known.of("atlas", {"reading": 2000.0}, "registration", 0.0, 0.0) == pytest.approx(350)  # five times, not 1000


def test_the_progress_of_the_current_stage_counts_more_than_earlier_jobs(known: TimeLeft) -> None:
    assert known.of("atlas", {"reading": 2.0, "registration": 10.0}, "network", 30.0, 0.25) == pytest.approx(90)
    assert known.of("atlas", {"reading": 2.0, "registration": 10.0}, "network", 30.0, 1.0) == 0


def test_a_stage_that_no_earlier_job_had_is_unknown_until_it_reports_progress(known: TimeLeft) -> None:
    assert known.of("atlas", {"reading": 2.0}, "downloading", 1.0, 0.0) is None
    assert known.of("atlas", {"reading": 2.0}, "downloading", 1.0, 0.5) == pytest.approx(71)


def test_rare_stages_do_not_count(known: TimeLeft) -> None:
    known.add("atlas", {**USUAL, "repeating": 500.0})
    assert known.of("atlas", {}, "", 0.0, 0.0) == pytest.approx(72)


def test_a_queue_gives_the_estimate_for_running_jobs_only() -> None:
    queue, go = JobQueue(), threading.Event()

    def work() -> None:
        progress.current()("reading", 0.5)
        go.wait(10)
        progress.current()("network", 0.1)

    try:
        first = queue.submit("atlas", "a", work)
        until(lambda: queue.describe(first)["stage"] == "reading", 5, "the job does not begin")
        assert queue.describe(first)["seconds_left"] is None
        go.set()
        first.outcome.result(10)
        assert queue.describe(first)["seconds_left"] is None
        go.clear()
        second = queue.submit("atlas", "a", work)
        third = queue.submit("atlas", "a", work)
        until(lambda: queue.describe(second)["stage"] == "reading", 5, "the job does not begin")
        assert queue.describe(second)["seconds_left"] == 0
        assert queue.describe(third)["seconds_left"] is None
        queue.cancel(second.id)
        assert queue.describe(second)["seconds_left"] is None
        go.set()
    finally:
        queue.stop()
