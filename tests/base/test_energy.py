"""Energy of a block of work."""

from __future__ import annotations

import time
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base import energy
from medsam2_atlas.base.energy import measured


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

    def __init__(self, start: BaseException | None = None, stop: BaseException | None = None, energy: Any = 0.001) -> None:
        self._start, self._stop, self._energy = start, stop, energy
        self._scheduler_monitor_power = self
        self.gpu = ""

    def start_task(self, name: str) -> None:
        if self._start:
            raise self._start

    def stop_task(self, name: str) -> Any:
        if self._stop:
            raise self._stop
        data = SimpleNamespace(energy_consumed=self._energy, cpu_model="a processor", gpu_model=self.gpu)
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
