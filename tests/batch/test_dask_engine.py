"""How the engine of a cluster divides work, and what it does when workers lack files or are killed."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from batch_cases import stand_in_job
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.overlay import begin_settings, choose_settings, overlaid_settings
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import ModelFile
from medsam2_atlas.batch.outcomes import Outcome

pytest.importorskip("distributed")

from medsam2_atlas.batch import dask_engine, dask_worker
from medsam2_atlas.batch.dask_calls import Call, EndedCall
from medsam2_atlas.batch.dask_worker import prepare_only, work

ITEM = Item("a.nii.gz", "file", "/cts/a.nii.gz", "a")


class FakeTasks:
    """Keeps tasks until the test ends them."""

    def __init__(self, gpus: int, cpus: int) -> None:
        self.gpus, self.cpus, self.threads, self.dashboard = gpus, cpus, gpus + cpus, ""
        self.calls: list[Call] = []
        self.ends: list[EndedCall] = []
        self.sent: list[tuple[Any, ...]] = []
        self.refused: dict[str, str] = {}
        self.broken: Exception | None = None
        self.missed: set[str] = set()

    def submit(self, call: Call) -> None:
        self.calls.append(call)

    def ended(self, seconds: float) -> list[EndedCall]:
        found, self.ends = self.ends, []
        return found

    def run_on(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append((worker, *arguments))

    def refuse(self, worker: str, reason: str) -> None:
        self.refused[worker] = reason

    def misses(self, resource: str) -> bool:
        return resource in self.missed

    def recall(self, resource: str) -> list[Call]:
        found = [call for call in self.calls if resource in call.resources]
        self.calls = [call for call in self.calls if resource not in call.resources]
        return found

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
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM, prepared="abc"))]
    assert found.completed(0) == []
    assert (tasks.calls[1].function, tasks.calls[1].resources) == (work, {"GPU": 1})
    assert tasks.calls[1].arguments[1:] == (ITEM, "abc")
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


def asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[FakeTasks, dask_engine.DaskEngine]:
    """Returns an engine with three cases on a worker that lacks a file and asks for it with each of them."""
    file = tmp_path / "weights.pt"
    file.write_bytes(b"0123456789")
    tasks = FakeTasks(gpus=0, cpus=0)
    found = engine(monkeypatch, tasks, files=(ModelFile("checkpoint", "", str(file), "abc", 10),))
    for number in range(3):
        found.submit(replace(ITEM, id=str(number)))
    tasks.ends = [asks(call) for call in tasks.calls]
    return tasks, found


def asks(call: Call) -> EndedCall:
    return EndedCall(call, Outcome(call.arguments[1], worker="tls://w:1", missing=("abc",)))


def test_a_worker_gets_a_file_once_although_all_its_cases_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks, found = asking(monkeypatch, tmp_path)
    assert found.completed(0) == []
    assert (len(tasks.sent), len(tasks.calls), tasks.refused) == (1, 6, {})
    tasks.ends = [asks(tasks.calls[-1])]
    assert found.completed(0) == []
    assert len(tasks.sent) == 1 and "does not keep weights.pt" in tasks.refused["tls://w:1"]


@pytest.mark.parametrize("error", [OSError("lost"), KeyError("w"), StorageError("abc", "was damaged.", "Try again.")])
def test_a_file_that_cannot_be_sent_counts_as_an_attempt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    tasks, found = asking(monkeypatch, tmp_path)
    tasks.broken = error
    outcomes = found.completed(0)
    assert [outcome.passing for outcome in outcomes] == [True] * 3
    assert len(tasks.calls) == 3 and "weights.pt could not be sent" in outcomes[0].reason


def test_a_worker_without_room_for_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks, found = asking(monkeypatch, tmp_path)
    tasks.broken = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert found.completed(0) == []
    assert "no room" in tasks.refused["tls://w:1"] and len(tasks.calls) == 6


def test_a_worker_that_cannot_do_any_case_is_refused_and_the_case_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=1, cpus=1)
    found = engine(monkeypatch, tasks)
    found.submit(ITEM)
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM, reason="no CUDA", unusable=True, worker="tls://w:1"))]
    assert found.completed(0) == []
    assert tasks.refused == {"tls://w:1": "no CUDA"}
    assert [call.function for call in tasks.calls] == [prepare_only, prepare_only]


def test_a_worker_tells_that_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dask_worker, "get_worker", lambda: SimpleNamespace(address="tls://w:1", name="w"))
    dask_worker.receive_job("a", stand_in_job(parts=tmp_path / "unmounted"))
    outcome = work("a", ITEM)
    assert outcome.unusable and not outcome.fatal and "is not on this machine" in outcome.reason
    dask_worker.receive_job("b", stand_in_job(parts=tmp_path, key="0" * 20))
    outcome = work("b", ITEM)
    assert outcome.unusable and "other results" in outcome.reason


def test_a_batch_has_its_own_settings_and_threads_again_after_others_used_its_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[tuple[str, int]] = []

    def noted(item: Item, session: Any, prepared: str) -> Outcome:
        found.append((overlaid_settings("registration.yaml").get("method", ""), torch.get_num_threads()))
        return Outcome(item, reason="x")

    monkeypatch.setattr("medsam2_atlas.batch.work.work_on", noted)
    monkeypatch.setattr(dask_worker, "get_worker", lambda: SimpleNamespace(address="tls://w:1", name="w"))
    before = torch.get_num_threads()
    try:
        dask_worker.receive_job("own", stand_in_job(parts=tmp_path, registration="dense", threads=1))
        work("own", ITEM)
        begin_settings("an evaluation")
        choose_settings("registration.yaml", {"method": "keypoints"})
        work("own", ITEM)
        torch.set_num_threads(2)  # as `atlas build` does
        work("own", ITEM)
    finally:
        torch.set_num_threads(before)
    assert found == [("dense", 1)] * 3


def test_a_job_is_sent_once_to_each_process_and_not_with_each_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = FakeTasks(gpus=0, cpus=0)
    found = engine(monkeypatch, tasks)
    for number in range(2):
        found.submit(replace(ITEM, id=str(number)))
    name = tasks.calls[0].arguments[0]
    assert isinstance(name, str)
    for process in ("first", "second"):  # the second one has the same address, as after a restart
        tasks.ends = [
            EndedCall(call, Outcome(call.arguments[1], worker="tls://w:1", missing=(f"{name}-{process}",)))
            for call in tasks.calls[-2:]
        ]
        assert found.completed(0) == []
    assert [(worker, sent) for worker, sent, _ in tasks.sent] == [("tls://w:1", name)] * 2
    assert tasks.sent[0][2].segmenter == "atlas" and not tasks.refused
    monkeypatch.setattr(dask_worker, "get_worker", lambda: SimpleNamespace(address="tls://w:1", name="w"))
    assert [text.partition("-")[0] for text in work(name, ITEM).missing] == [name]


def test_without_workers_that_register_those_with_a_gpu_do_whole_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=1, cpus=1)
    found = engine(monkeypatch, tasks)
    found.submit(ITEM)
    tasks.cpus, tasks.missed = 0, {"CPU"}
    assert found.completed(0) == []
    assert [(call.function, call.resources) for call in tasks.calls] == [(work, {"GPU": 1})]


@pytest.mark.parametrize("killed", [True, False])
def test_prepared_cts_are_removed_when_their_case_ends_also_those_of_lost_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, killed: bool
) -> None:
    tasks = FakeTasks(gpus=1, cpus=1)
    found = engine(monkeypatch, tasks, parts=tmp_path)
    digest = hashlib.sha256(ITEM.id.encode()).hexdigest()[:16]
    first, second = (f"{digest}-{number:032x}" for number in range(2))
    for name in (first, second):  # the worker that made the first one was lost before its answer came
        (tmp_path / f"prepared-{name}").mkdir()
    found.submit(ITEM)
    tasks.ends = [EndedCall(tasks.calls[0], Outcome(ITEM, prepared=second))]
    assert found.completed(0) == [] and len([*tmp_path.iterdir()]) == 2
    error = RuntimeError("x") if killed else None
    tasks.ends = [EndedCall(tasks.calls[1], Outcome(ITEM, reason="y", passing=True), error=error, killed=killed)]
    assert [outcome.passing for outcome in found.completed(0)] == [True]
    assert not [*tmp_path.iterdir()]


def test_models_that_were_replaced_end_the_batch_and_close_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FakeTasks(gpus=0, cpus=0)
    found = engine(monkeypatch, tasks)
    found.submit(ITEM)
    changed = Outcome(ITEM, reason="changed", fatal=True, unusable=True, worker="tls://w:1")
    tasks.ends = [EndedCall(tasks.calls[0], changed)]
    assert found.completed(0) == [changed] and not tasks.refused
