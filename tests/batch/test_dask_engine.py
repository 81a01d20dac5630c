"""How the engine of a cluster divides work, and what it does when workers lack files or are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch_cases import stand_in_job
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import ModelFile
from medsam2_atlas.batch.work import Outcome

pytest.importorskip("distributed")

from medsam2_atlas.batch import dask_engine
from medsam2_atlas.batch.dask_tasks import Call, EndedCall
from medsam2_atlas.batch.dask_worker import prepare_only, work

ITEM = Item("a.nii.gz", "file", "/cts/a.nii.gz", "a")


class FakeTasks:
    """Keeps tasks until the test ends them."""

    def __init__(self, gpus: int, cpus: int) -> None:
        self.gpus, self.cpus, self.threads, self.dashboard = gpus, cpus, gpus + cpus, ""
        self.calls: list[Call] = []
        self.ends: list[EndedCall] = []
        self.sent: list[tuple[Any, ...]] = []

    def submit(self, call: Call) -> None:
        self.calls.append(call)

    def ended(self, seconds: float) -> list[EndedCall]:
        found, self.ends = self.ends, []
        return found

    def run_on(self, worker: str, function: Callable[..., Any], *arguments: Any) -> bool:
        self.sent.append((worker, *arguments))
        return True

    def close(self) -> None:
        """Does nothing."""


def engine(monkeypatch: pytest.MonkeyPatch, tasks: FakeTasks, **job: Any) -> dask_engine.DaskEngine:
    monkeypatch.setattr(dask_engine, "DaskTasks", lambda cluster, config: tasks)
    monkeypatch.setattr(dask_engine, "with_files", lambda session: session.job)
    session: Any = SimpleNamespace(job=stand_in_job(**job), registers=True, segmenter=SimpleNamespace(uses_network=True))
    cluster: Any = SimpleNamespace(address="", security=None, threads=2)
    return dask_engine.DaskEngine(cluster, session, BatchConfig(window=3))


def test_workers_without_a_gpu_register_and_those_with_one_run_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=1, cpus=2)
    found = engine(monkeypatch, tasks)
    assert found.window == 9
    found.submit(ITEM)
    assert (tasks.calls[0].function, tasks.calls[0].resources) == (prepare_only, {"CPU": 1})
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM))]
    assert found.completed(0) == []
    assert (tasks.calls[1].function, tasks.calls[1].resources) == (work, {"GPU": 1})
    tasks.ends = [EndedCall(tasks.calls[1], outcome := Outcome(ITEM, reason="x"))]
    assert found.completed(0) == [outcome]


def test_a_registration_that_fails_ends_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=1, cpus=1)
    found = engine(monkeypatch, tasks)
    found.submit(ITEM)
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM, reason="shows no body."))]
    assert [outcome.reason for outcome in found.completed(0)] == ["shows no body."]


def test_workers_of_one_kind_do_whole_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    for tasks, resources in ((FakeTasks(gpus=0, cpus=2), {}), (FakeTasks(gpus=2, cpus=0), {"GPU": 1})):
        engine(monkeypatch, tasks).submit(ITEM)
        assert (tasks.calls[0].function, tasks.calls[0].resources) == (work, resources)


def test_a_worker_without_a_file_gets_it_in_pieces_and_then_the_case_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("medsam2_atlas.batch.shipping.PIECE_BYTES", 4)
    file = tmp_path / "weights.pt"
    file.write_bytes(b"0123456789")
    tasks = FakeTasks(gpus=0, cpus=0)
    found = engine(monkeypatch, tasks, files=(ModelFile("checkpoint", "", str(file), "abc", 10),))
    found.submit(ITEM)
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM, worker="tcp://127.0.0.1:1", missing=("abc",)))]
    assert found.completed(0) == []
    assert [(digest, offset, piece, last) for _, digest, offset, piece, last, _ in tasks.sent] == [
        ("abc", 0, b"0123", False),
        ("abc", 4, b"4567", False),
        ("abc", 8, b"89", True),
    ]
    assert len(tasks.calls) == 2


def test_a_case_whose_workers_are_killed_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=0, cpus=0)
    found = engine(monkeypatch, tasks)
    found.submit(ITEM)
    tasks.ends = [EndedCall(tasks.calls[0], error=RuntimeError("x"), killed=True)]
    (outcome,) = found.completed(0)
    assert outcome.passing and "memory" in outcome.reason
