"""A batch survives the loss of workers and of the scheduler: every case exactly once, with the results of a serial run."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import pytest

from batch_cases import Members, entries, outputs, run_stand_in, write_cts
from medsam2_atlas.batch.conduct import Tally

pytest.importorskip("distributed")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_killed_workers_and_scheduler_lose_no_case_and_do_none_twice(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 40)
    run_stand_in(cts, tmp_path / "serial", serial=True)
    with Members(free_port(), seconds=0.2) as members:
        plan = {6: "worker-0", 14: "scheduler", 24: "worker-0"}

        def watch(tally: Tally) -> None:
            for done in [done for done in plan if tally.done >= done]:
                members.kill(plan.pop(done))

        ended = run_stand_in(cts, tmp_path / "out", watch, cluster=members.address)
    assert not plan
    assert (ended.tally.done, ended.tally.failed) == (40, {})
    assert set(Counter(entry["case"] for entry in entries(tmp_path / "out")).values()) == {1}
    assert len(entries(tmp_path / "out")) == 40
    assert outputs(tmp_path / "out") == outputs(tmp_path / "serial")
    assert not list((tmp_path / "out" / ".batch").glob("parts"))
