"""Work in the background runs at most once at a time, and its error is known until it succeeds."""

from __future__ import annotations

import threading

from medsam2_atlas.base.background import Background
from waiting import until


def test_work_that_is_running_is_not_started_again_and_nobody_waits_for_it() -> None:
    goes_on, runs = threading.Event(), list[str]()

    def work() -> None:
        runs.append(threading.current_thread().name)
        goes_on.wait(10)

    background = Background("counting", work)
    assert [background.start() for _ in range(3)] == [True, False, False]
    assert not background.wait(0.05)
    goes_on.set()
    assert background.wait(10)
    until(background.start, 10)
    until(lambda: len(runs) == 2, 10)
    assert runs == ["counting"] * 2


def test_an_error_is_kept_until_a_run_succeeds() -> None:
    errors: list[Exception] = [ValueError("first"), ValueError("second")]

    def work() -> None:
        if errors:
            raise errors.pop(0)

    background = Background("trying", work)
    for words in ("first", "second", "None"):
        until(background.start, 10)
        until(lambda words=words: words == str(background.failure), 10)  # type: ignore[misc]
