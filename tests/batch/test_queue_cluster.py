"""A cluster of a queue's jobs: what it says about its workers, and which jobs it replaces."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.batch.cluster_config import ClusterConfig

pytest.importorskip("dask_jobqueue")

from distributed import Security

from medsam2_atlas.batch import queues
from medsam2_atlas.batch.queues import QueueCluster

GROUPS = [{"count": 4, "cores": 8, "gpus": 1}, {"count": 8, "cores": 4}, {"count": 1, "cores": 6}]


class Clock:
    """Stands for the time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(queues, "time", found)
    return found


def opened(*names: str) -> tuple[QueueCluster, dict[str, str]]:
    """Returns a cluster with workers of these names, and its jobs by name."""
    jobs = dict.fromkeys(names, "job")
    loop = SimpleNamespace(add_callback=lambda _: None)
    cluster: Any = SimpleNamespace(scheduler_address="tls://h:1", worker_spec=jobs, loop=loop, _correct_state=None)
    config = ClusterConfig.model_validate({"queue": "slurm", "workers": GROUPS})
    return QueueCluster(config, cluster, Security(), Path("OUT/.batch/logs")), jobs


def test_workers_that_wait_in_the_queue_are_known(clock: Clock) -> None:
    cluster, _ = opened()
    assert cluster.expected == {"GPU": 4, "CPU": 9}
    assert cluster.threads == 4


def test_a_worker_that_has_left_is_replaced_after_a_minute(clock: Clock) -> None:
    cluster, jobs = opened("gpu-0-0", "gpu-0-1")
    cluster.keep_up({"gpu-0-0", "gpu-0-1"})
    for clock.now, replaced in ((4000.0, False), (4050.0, False), (4061.0, True)):
        cluster.keep_up({"gpu-0-1"})
        assert ("gpu-0-0" not in jobs) == replaced
    assert jobs == {"gpu-0-1": "job", "gpu-0-0.1": "job"}


def test_a_worker_that_comes_back_is_not_replaced(clock: Clock) -> None:
    cluster, jobs = opened("gpu-0-0")
    for clock.now, names in ((0.0, {"gpu-0-0"}), (30.0, set()), (80.0, {"gpu-0-0"}), (100.0, set()), (150.0, set())):
        cluster.keep_up(names)
    assert [*jobs] == ["gpu-0-0"]


def test_a_job_that_dies_soon_again_and_again_is_given_up_with_its_logs(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    cluster, jobs = opened("cpu-1-0")
    for _ in range(3):
        die(cluster, jobs, clock)
    assert not jobs
    assert len([line for line in caplog.messages if "a new job replaces it" in line]) == 2
    assert "is not replaced; see OUT/.batch/logs" in caplog.text
    assert cluster.expected == {"GPU": 4, "CPU": 8}


def test_if_all_jobs_of_a_kind_are_given_up_the_run_ends_and_names_the_logs(clock: Clock) -> None:
    cluster, jobs = opened(*(f"gpu-0-{number}" for number in range(4)))
    die(cluster, jobs, clock)
    die(cluster, jobs, clock)
    with pytest.raises(InputError, match=r"OUT/\.batch/logs: show why all GPU workers left"):
        die(cluster, jobs, clock)


def die(cluster: QueueCluster, jobs: dict[str, str], clock: Clock) -> None:
    """Lets all workers join and leave after five seconds."""
    cluster.keep_up({*jobs})
    clock.now += 5
    cluster.keep_up(set())
    clock.now += 65
    cluster.keep_up(set())


def test_jobs_that_never_join_are_reported_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    cluster, _ = opened("cpu-1-0", "cpu-1-1")
    with caplog.at_level(logging.WARNING):
        for clock.now in (10.0, 700.0, 1500.0):
            cluster.keep_up({"cpu-1-0"})
    assert caplog.messages == ["1 workers have not joined: the queue is long, or their jobs fail; see OUT/.batch/logs"]
