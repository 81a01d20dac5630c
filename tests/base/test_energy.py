"""Energy of a block of work."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base import energy
from medsam2_atlas.base.energy import Meter, measured
from medsam2_atlas.base.energy_config import energy_config
from medsam2_atlas.base.stages import stage


def work(seconds: float) -> None:
    matrix, began = np.ones((400, 400)), time.perf_counter()
    while time.perf_counter() - began < seconds:
        matrix @ matrix


def test_work_takes_energy_and_time() -> None:
    with measured() as first:
        work(3)
    assert first["seconds"] >= 3
    assert first["watt_hours"] > 0
    assert "CodeCarbon" in first["how"]


def test_only_one_of_two_simultaneous_blocks_is_measured() -> None:
    with measured() as outer, measured() as inner:
        work(0.2)
    assert inner["watt_hours"] is None
    assert "beside" in inner["how"]
    assert outer["watt_hours"] is not None


class FakeTracker:
    """A replacement of CodeCarbon's tracker that raises given errors."""

    def __init__(
        self,
        start: BaseException | None = None,
        stop: BaseException | None = None,
        energy: Any = 0.001,
        emissions: float | None = None,
    ) -> None:
        self._start, self._stop, self._energy, self._emissions = start, stop, energy, emissions
        self._scheduler_monitor_power = self
        self.gpu = ""

    def start_task(self, name: str) -> None:
        if self._start:
            raise self._start

    def stop_task(self, name: str) -> Any:
        if self._stop:
            raise self._stop
        data = SimpleNamespace(
            energy_consumed=self._energy, emissions=self._emissions, cpu_model="a processor", gpu_model=self.gpu
        )
        return None if self._energy is None else data

    def stop(self) -> None:
        """Stops nothing."""


class NVMLError(Exception):
    """An error of another library, which is not a built-in type."""


def use(monkeypatch: pytest.MonkeyPatch, *trackers: FakeTracker) -> None:
    """Replaces CodeCarbon's tracker; each new tracker is the next one in `trackers`."""
    left = list(trackers)
    monkeypatch.setattr(energy, "_tracker", cache(lambda: left.pop(0)))


LOST = "GPU is lost"


@pytest.mark.parametrize(
    "failing",
    [
        FakeTracker(start=NVMLError(LOST)),
        FakeTracker(stop=NVMLError(LOST)),
        FakeTracker(start=KeyError(LOST)),
        FakeTracker(stop=TypeError(LOST)),
        FakeTracker(energy=None),
        FakeTracker(energy=float("nan")),
        FakeTracker(energy=-1.0),
        FakeTracker(energy="much"),
    ],
)
def test_a_failing_measurement_does_not_lose_a_result_or_the_next_measurement(
    monkeypatch: pytest.MonkeyPatch, failing: FakeTracker
) -> None:
    use(monkeypatch, failing, FakeTracker())
    with measured() as first:
        done = "the result"
    assert done
    assert first["seconds"] is not None
    assert first["watt_hours"] is None
    assert first["how"].startswith("not measured: ")
    assert "beside" not in first["how"]
    with measured() as second:
        pass
    assert second["watt_hours"] == 1.0
    assert second["how"] == "CodeCarbon, this process on a processor"


@pytest.mark.parametrize("failing", [FakeTracker(), FakeTracker(start=NVMLError(LOST)), FakeTracker(stop=NVMLError(LOST))])
def test_a_measurement_does_not_hide_the_error_of_the_work(monkeypatch: pytest.MonkeyPatch, failing: FakeTracker) -> None:
    use(monkeypatch, failing, FakeTracker())
    with pytest.raises(ZeroDivisionError), measured():
        _ = 1 / 0
    with measured() as second:
        pass
    assert second["watt_hours"] == 1.0


def test_a_measurement_that_is_interrupted_does_not_keep_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker(stop=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt), measured():
        pass
    assert not energy._lock.locked()


def test_energy_of_a_gpu_is_reported_as_that_of_the_whole_card(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FakeTracker()
    tracker.gpu = "1 x A GPU"
    use(monkeypatch, tracker)
    with measured() as result:
        pass
    assert result["how"] == "CodeCarbon, this process on a processor, with everything that ran on 1 x A GPU"


def test_each_stage_has_the_energy_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker(energy=0.001, emissions=0.0004))
    monkeypatch.setattr(energy, "_MAX_CHANGING", 1e9)  # each change of the stage is one of the task
    with measured(by_stage=True) as result:
        with stage("outer"), stage("inner"):
            pass
        with stage("inner"):
            pass
    energies = {name: (entry["watt_hours"], entry["co2_grams"]) for name, entry in result["stages"].items()}
    # Other, outer, inner, outer, other, inner, other: one task each, with 1 Wh.
    assert energies == {"other": (3.0, 1.2), "outer": (2.0, 0.8), "inner": (2.0, 0.8)}
    assert (result["watt_hours"], result["co2_grams"]) == (7.0, 2.8)


class SlowTracker(FakeTracker):
    """A tracker that takes 20 ms of a pretended clock to end a task, and counts the tasks."""

    tasks, now = 0, 100.0

    def stop_task(self, name: str) -> Any:
        self.tasks += 1
        self.now += 0.02
        return super().stop_task(name)

    def perf_counter(self) -> float:
        """Returns the time of the clock, s."""
        return self.now


def test_short_stages_share_a_task_by_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = SlowTracker(energy=0.001, emissions=0.0004)
    use(monkeypatch, tracker)
    monkeypatch.setattr(energy, "time", tracker)
    with measured(by_stage=True) as result:
        for _ in range(10):
            with stage("long"):
                tracker.now += 0.018
            with stage("short"):
                tracker.now += 0.006
    # The first change ends an empty task. The second task lasts ten times as long as a change, with 9 long and 8 short stages.
    assert tracker.tasks == 3
    assert {name: entry["watt_hours"] for name, entry in result["stages"].items()} == {
        "other": 1.0,
        "long": pytest.approx(162 / 210 + 18 / 30, abs=0.001),
        "short": pytest.approx(48 / 210 + 12 / 30, abs=0.001),
    }
    assert result["stages"]["long"]["seconds"] == pytest.approx(0.18)
    assert result["stages"]["short"]["seconds"] == pytest.approx(0.06)
    assert (result["watt_hours"], result["co2_grams"]) == (3.0, 1.2)


def test_stages_are_given_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FakeTracker(emissions=0.0004)
    use(monkeypatch, tracker)
    with measured() as result, stage("network"):
        pass
    assert result.keys() == {"seconds", "watt_hours", "co2_grams", "how"}
    assert (result["watt_hours"], result["co2_grams"]) == (1.0, 0.4)  # one task


def test_energy_is_known_if_emissions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker())
    with measured(by_stage=True) as result:
        pass
    assert (result["watt_hours"], result["co2_grams"]) == (1.0, None)
    assert result["stages"]["other"]["co2_grams"] is None


def test_a_failure_in_a_stage_leaves_the_times_of_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker(stop=NVMLError(LOST)), FakeTracker())
    with measured(by_stage=True) as first, stage("network"):
        time.sleep(0.02)
    assert first["watt_hours"] is None
    assert LOST in first["how"]
    assert first["stages"]["network"]["seconds"] >= 0.02
    assert first["stages"]["network"]["watt_hours"] is None
    with measured() as second:
        pass
    assert second["watt_hours"] == 1.0


def test_a_block_beside_another_has_times_without_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker())
    with measured(by_stage=True) as outer, measured(by_stage=True) as inner, stage("network"):
        time.sleep(0.02)
    assert inner["stages"]["network"] == {"seconds": pytest.approx(0.02, abs=0.2), "watt_hours": None, "co2_grams": None}
    assert outer["watt_hours"] >= 1.0
    assert outer["stages"]["network"]["watt_hours"] == pytest.approx(1.0, abs=0.1)


def test_stages_of_real_work_add_up_to_its_energy() -> None:
    with measured(by_stage=True) as result:
        with stage("long"):
            work(0.25)
        with stage("short"):
            work(0.05)
    stages = result["stages"]
    assert sum(entry["watt_hours"] for entry in stages.values()) == pytest.approx(result["watt_hours"], rel=0.01)
    assert stages["long"]["watt_hours"] > 2 * stages["short"]["watt_hours"] > 0
    assert result["co2_grams"] == pytest.approx(0.381 * result["watt_hours"], rel=0.01)
    assert "DEU" in result["how"]


def test_invalid_settings_do_not_lose_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "energy.yaml").write_text("country: nowhere")
    monkeypatch.setattr(energy, "energy_config", lambda: energy_config(tmp_path / "energy.yaml"))
    energy._tracker.cache_clear()
    with measured(by_stage=True) as result, stage("network"):
        done = "the result"
    energy._tracker.cache_clear()
    assert done
    assert "country" in result["how"]


def test_tasks_of_the_past_take_no_memory() -> None:
    for _ in range(3):
        with measured(by_stage=True), stage("network"):
            pass
    assert len(energy._tracker()._tasks) == 0


def test_a_meter_gives_the_energy_until_now_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeTracker())
    meter = Meter()
    meter.start()
    assert meter.reading().watt_hours == 0
    meter.lap()
    assert meter.reading().watt_hours == 1.0
    meter.stop()
    meter.stop()
    assert meter.reading().watt_hours == 2.0
    assert not energy._lock.locked()
