"""Which members of a cluster get tasks: only those that nobody else can reach, and that have the package."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batch_cases import free_port
from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.batch.config import BatchConfig

pytest.importorskip("distributed")

from distributed import Client, Scheduler, SpecCluster, Worker

from medsam2_atlas.batch import dask_members
from medsam2_atlas.batch.clusters import Named
from medsam2_atlas.batch.dask_calls import Call
from medsam2_atlas.batch.dask_tasks import DaskTasks

LOOPBACK = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard": False}


@contextmanager
def running(*workers: dict[str, Any]) -> Iterator[tuple[SpecCluster, DaskTasks]]:
    """Runs scheduler and workers in this process; yields the cluster and the tasks of a client."""
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0", "protocol": "tcp://"},
    }
    spec = {f"w{k}": {"cls": Worker, "options": LOOPBACK | {"nthreads": 1} | more} for k, more in enumerate(workers)}
    with SpecCluster(scheduler=scheduler, workers=spec) as cluster:
        tasks = DaskTasks(Named(cluster.scheduler_address), BatchConfig())
        try:
            yield cluster, tasks
        finally:
            tasks.close()


def results(tasks: DaskTasks, count: int = 6) -> list[int]:
    for number in range(count):
        tasks.submit(Call(str(number), operator.mul, (number, 2)))
    found: list[int] = []
    while len(found) < count:
        for ended in tasks.ended(5):
            assert ended.error is None
            found.append(ended.value)
    return sorted(found)


def names(tasks: DaskTasks) -> set[str]:
    assert tasks._client is not None
    return {str(worker["name"]) for worker in tasks._client.scheduler_info(n_workers=-1)["workers"].values()}


def unfit_if(name: str) -> Callable[..., str]:
    """Returns a check that refuses the worker of a name, as if it had another version."""

    def unfit(version: str, dask_worker: Any) -> str:
        if dask_worker.name == name:
            raise ModuleNotFoundError("No module named 'medsam2_atlas.batch'")
        return ""

    return unfit


def test_a_scheduler_that_listens_to_the_network_without_certificates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Client.scheduler_info
    monkeypatch.setattr(Client, "scheduler_info", lambda *a, **k: said(*a, **k) | {"address": "tcp://192.0.2.2:8786"})
    with pytest.raises(InputError, match="reached from the network") as error, running({}):
        pass
    assert "--host 127.0.0.1" in error.value.remedy


def test_a_worker_that_listens_to_the_network_without_certificates_is_closed() -> None:
    port = free_port()
    everywhere = {"host": None, "port": port, "contact_address": f"tcp://127.0.0.1:{port}"}
    with pytest.raises(InputError, match="listens to the network"), running(everywhere):
        pass


def test_a_worker_that_cannot_be_used_is_closed_and_the_others_do_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_members, "unfit", unfit_if("w0"))
    with running({}, {}) as (_, tasks):
        assert results(tasks) == [0, 2, 4, 6, 8, 10]
        assert names(tasks) == {"w1"}


def test_a_worker_that_joins_later_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_members, "unfit", unfit_if("late"))
    with running({}) as (cluster, tasks):
        cluster.worker_spec["late"] = {"cls": Worker, "options": LOOPBACK | {"nthreads": 1}}
        cluster.sync(cluster._correct_state)
        assert names(tasks) == {"w0", "late"}
        tasks._look()
        assert names(tasks) == {"w0"}
        assert results(tasks) == [0, 2, 4, 6, 8, 10]


def test_without_any_worker_that_can_be_used_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_members, "unfit", unfit_if("w0"))
    with pytest.raises(InputError, match="lacks this version"), running({}):
        pass


def test_workers_that_are_still_to_come_count() -> None:
    with running({"resources": {"CPU": 1}}) as (cluster, _):
        tasks = DaskTasks(Named(cluster.scheduler_address, expected={"GPU": 2, "CPU": 1}), BatchConfig())
        assert (tasks.gpus, tasks.cpus, tasks.threads) == (2, 1, 1)
        tasks.close()


def test_networks_wait_for_a_lost_gpu_and_registrations_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running({"resources": {"GPU": 1}}, {"resources": {"CPU": 1}}, {}) as (cluster, tasks):
        assert (tasks.gpus, tasks.cpus, tasks.threads) == (1, 1, 3)
        for name in ("w0", "w1"):
            cluster.worker_spec.pop(name)
        cluster.sync(cluster._correct_state)
        tasks._look()
        assert (tasks.gpus, tasks.cpus, tasks.threads) == (1, 1, 1)
        for number, resource in enumerate(("GPU", "CPU")):
            tasks.submit(Call(str(number), operator.mul, (number, 2), {resource: 1}))
        assert not tasks.misses("GPU") and not tasks.misses("CPU")
        monkeypatch.setattr(dask_members, "_MISSED_SECONDS", 0.0)
        tasks._look()
        assert (tasks.gpus, tasks.cpus) == (1, 0)
        assert tasks.misses("GPU") and tasks.misses("CPU")
        assert "no worker with the resource GPU any more" in caplog.text
        assert [call.name for call in tasks.recall("CPU")] == ["1"]
        assert not tasks.misses("CPU")
        monkeypatch.setattr(tasks._members, "_config", BatchConfig(stalled_after=0))
        with pytest.raises(UnavailableError, match="resource GPU"):
            tasks.misses("GPU")


def test_tasks_wait_for_workers_that_are_still_to_come_but_not_forever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running({"resources": {"GPU": 1}}) as (cluster, _):
        tasks = DaskTasks(Named(cluster.scheduler_address, expected={"GPU": 1, "CPU": 2}), BatchConfig())
        tasks.submit(Call("0", operator.mul, (1, 2), {"CPU": 1}))
        assert not tasks.misses("CPU") and "resource CPU" not in caplog.text
        monkeypatch.setattr(dask_members, "_MISSED_SECONDS", 0.0)
        tasks._look()
        assert not tasks.misses("CPU")  # no worker with a GPU does whole cases instead
        assert "no worker with the resource CPU yet" in caplog.text
        monkeypatch.setattr(tasks._members, "_config", BatchConfig(stalled_after=0))
        with pytest.raises(UnavailableError, match="resource CPU"):
            tasks.misses("CPU")
        tasks.close()


def test_the_time_without_a_scheduler_does_not_count_as_time_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    with running({"resources": {"CPU": 1}}) as (cluster, tasks):
        members = tasks._members
        members._seen["CPU"] -= 1000
        members._seen_workers -= 1e9
        cluster.worker_spec.clear()
        cluster.sync(cluster._correct_state)
        tasks.submit(Call("0", operator.mul, (1, 2), {"CPU": 1}))
        tasks._reconnect()
        tasks._look()
        assert tasks.cpus == 1 and not tasks.misses("CPU")


def only_elsewhere(name: str, dask_worker: Any = None) -> str:
    return name


def test_a_task_that_a_worker_cannot_import_goes_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = {"w0"}

    def unfit(version: str, dask_worker: Any) -> str:
        return "it lacks a module." if dask_worker.name in broken else ""

    def task() -> str:
        from distributed import get_worker

        if get_worker().name in broken:
            raise ModuleNotFoundError("No module named 'medsam2_atlas.batch'")
        return str(get_worker().name)

    with running({}, {}) as (_, tasks):
        monkeypatch.setattr(dask_members, "unfit", unfit)
        for number in range(4):
            tasks.submit(Call(str(number), task, ()))
        found: list[str] = []
        while len(found) < 4:
            found += [ended.value for ended in tasks.ended(5)]
        assert found == ["w1"] * 4
        broken.clear()
        tasks.submit(Call("x", only_elsewhere, ("a", "b", "c")))
        assert isinstance(tasks.ended(5)[0].error, TypeError)


def test_a_task_that_no_worker_can_import_ends_the_run() -> None:
    def task() -> None:
        raise ModuleNotFoundError("No module named 'medsam2_atlas.batch'")

    with running({}) as (_, tasks), pytest.raises(InputError, match="cannot run the task"):
        tasks.submit(Call("0", task, ()))
        while True:
            tasks.ended(5)
