"""Progress on the command line: bars in a terminal, few lines elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest

from medsam2_atlas.base import console as console_module
from medsam2_atlas.base.console import _SafeConsole, bars
from medsam2_atlas.base.progress import doing, noting, reporting, showing
from waiting import until


@pytest.fixture
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StringIO:
    stream = StringIO()
    console = _SafeConsole(file=stream, width=80, force_terminal=request.param, color_system=None)
    monkeypatch.setattr(console_module, "console", console)
    return stream


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_a_terminal_shows_a_bar_with_the_time_left_and_what_the_job_works_on(shown: StringIO) -> None:
    with bars() as progress:
        progress("common space", 0.25)
        doing("round 2 of 3, image 1 of 8\x1b[2J" + "x" * 100)
        progress("common space", 0.5)
        until(lambda: "round 2" in shown.getvalue(), 10)
        progress("common space", 0.9, 6)  # one organ's share moves no bar
    text = shown.getvalue()
    assert "round 2 of 3, image 1 of 8\\x1b[2Jxxx" in text
    last = [line for line in text.replace("\r", "\n").split("\n") if "common space" in line][-1]
    assert " 50 %" in last
    assert "left" in last
    assert "round 2" not in text.rpartition("common space")[2]  # not left on the screen
    assert max(len(line.split("\x1b")[0]) for line in text.replace("\r", "\n").split("\n")) <= 80


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_a_terminal_shows_how_many_organs_are_ready(shown: StringIO) -> None:
    with bars() as progress:
        for organ in range(1, 5):
            progress("propagation", 1.0 if organ < 3 else 0.2, organ)
        progress("propagation", 0.6)
        until(lambda: "2 of 4 organs ready" in shown.getvalue(), 10)
        progress("fusion", 0.5)
    assert "organs ready" not in shown.getvalue().rpartition("fusion")[2]


@pytest.mark.parametrize("shown", [False], indirect=True)
def test_without_a_terminal_each_stage_gets_a_line_and_then_one_a_minute(
    shown: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with bars() as progress:
        for step in range(1001):
            now = 100 + 0.2 * step
            progress("reading [all]", step / 1000)
            progress("reading [all]", step / 1000, 6)
            doing(f"case-{step}")
    assert shown.getvalue().splitlines() == [
        "reading [all] …",
        "reading [all] 30%, about 2 min left",
        "reading [all] 60%, about 80 s left",
        "reading [all] 90%, about 20 s left",
    ]


def test_a_case_of_many_shows_its_stage_and_its_organs() -> None:
    seen: list[str] = []
    with showing(seen.append), reporting(noting("case-7, B")):
        progress = noting("case-7, B")
        progress("registration", 0.5)
        progress("propagation", 0.1, 6)
        progress("propagation", 1.0, 1)
        progress("propagation", 0.4)
        progress("fusion", 0.0)
    doing("nobody sees this")
    assert seen == [
        "case-7, B: registration 50%",
        "case-7, B: propagation 40%, 1 of 2 organs ready",
        "case-7, B: fusion 0%",
    ]
