"""Ctrl+C ends processes that work at the same time at once, and they leave no temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from medsam2_atlas.base.pools import in_processes

PROGRAM = """
import sys, time
from functools import partial
from pathlib import Path
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.pools import in_processes

def work(folder, number):
    with replacing(folder / f"{number}.txt") as part:
        part.write_text("half")
        for _ in range(600):
            time.sleep(0.1)

list(in_processes(2, partial(work, Path(sys.argv[1])), 5))
"""


def noted(number: int) -> None:
    Path(os.environ["NOTES"], str(number)).touch()


def test_each_call_is_made_once(tmp_path: Path) -> None:
    os.environ["NOTES"] = str(tmp_path)
    try:
        assert [*in_processes(2, noted, 5)] == [1, 2, 3, 4, 5]
    finally:
        del os.environ["NOTES"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"]


def test_an_interruption_ends_running_calls_and_removes_their_files(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while len([*tmp_path.iterdir()]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    _, printed = program.communicate(timeout=30)
    assert time.monotonic() - began < 20  # a call takes a minute
    assert [*tmp_path.iterdir()] == []
    assert b"SystemExit" not in printed
