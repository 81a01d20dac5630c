"""Other servers that hang delay callers only briefly."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from medsam2_atlas.base.errors import UnavailableError
from medsam2_atlas.base.upstream import CallPool, CircuitBreaker


class Clock:
    """A clock whose time the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("PACS", seconds=5, clock=clock)


def test_after_a_failure_calls_are_refused_until_a_trial_is_answered(breaker: CircuitBreaker, clock: Clock) -> None:
    assert breaker.ready and not breaker.open
    breaker.failed(breaker.begin(), "timed out")
    assert breaker.open and not breaker.ready
    with pytest.raises(UnavailableError, match="timed out"):
        breaker.begin()
    clock.now = 5
    assert breaker.ready
    breaker.begin()  # the trial
    with pytest.raises(UnavailableError):
        breaker.begin()
    breaker.answered()
    assert not breaker.open
    breaker.begin()


def test_another_trial_follows_one_that_never_ends(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.failed(breaker.begin(), "timed out")
    for clock.now in (5, 10, 15):
        breaker.begin()
        with pytest.raises(UnavailableError):
            breaker.begin()


def test_one_slow_call_does_not_open_the_breaker_if_others_are_answered(breaker: CircuitBreaker, clock: Clock) -> None:
    slow = breaker.begin()
    clock.now = 1
    breaker.answered()
    breaker.failed(slow, "timed out")
    assert not breaker.open


def test_silence_is_counted_from_the_first_unanswered_call(breaker: CircuitBreaker, clock: Clock) -> None:
    assert not breaker.silent(1)
    breaker.begin()
    clock.now = 2
    breaker.begin()
    assert breaker.silent(1)
    breaker.answered()
    assert not breaker.silent(1)


def test_a_block_is_guarded_and_other_errors_pass(breaker: CircuitBreaker) -> None:
    with pytest.raises(KeyError), breaker.guard(OSError):
        raise KeyError
    assert not breaker.open

    async def ask() -> None:
        with breaker.guard(OSError):
            await asyncio.sleep(0)
            raise TimeoutError("no answer")

    with pytest.raises(UnavailableError, match="no answer"):
        asyncio.run(ask())
    assert breaker.open
    with pytest.raises(UnavailableError), breaker.guard(OSError):
        pytest.fail("must not run")


def test_a_cancelled_or_failed_call_does_not_count_as_unanswered(breaker: CircuitBreaker, clock: Clock) -> None:
    with pytest.raises(KeyError), breaker.guard(OSError):
        raise KeyError

    async def ask() -> None:
        with breaker.guard(OSError):
            await asyncio.sleep(60)

    async def cancel() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    clock.now = 100
    assert not breaker.silent(1)


def test_a_cancelled_call_does_not_hide_another_unanswered_call(breaker: CircuitBreaker, clock: Clock) -> None:
    first = breaker.begin()
    clock.now = 1
    breaker.begin()
    breaker.given_up(first)
    clock.now = 3
    assert breaker.silent(1)
    breaker.answered()
    breaker.given_up(first)
    assert not breaker.silent(1)


def test_equal_calls_run_once() -> None:
    pool, runs = CallPool("PACS", threads=2, waiting=20), []

    def call() -> int:
        time.sleep(0.1)
        runs.append(1)
        return 7

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: pool.run("key", call, seconds=5), range(8))) == {7}
    assert len(runs) == 1
    assert pool.run("key", call, seconds=5) == 7
    assert len(runs) == 2


def test_errors_reach_waiting_callers() -> None:
    def call() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        CallPool("PACS", threads=1, waiting=1).run("key", call, seconds=5)


def test_a_hanging_call_delays_only_its_callers_and_only_briefly() -> None:
    pool, release = CallPool("PACS", threads=1, waiting=2), threading.Event()
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="not answered within"):
            pool.run("hangs", release.wait, seconds=0.1)
    with pytest.raises(UnavailableError, match="not answered within"):
        pool.run("behind it", release.wait, seconds=0.1)
    with pytest.raises(UnavailableError, match="too many requests at once"):
        pool.run("one more", release.wait, seconds=0.1)
    assert time.monotonic() - began < 2
    release.set()
    time.sleep(0.1)
    assert pool.run("again", lambda: 1, seconds=5) == 1
