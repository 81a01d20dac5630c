"""Measures the energy of a block of work with CodeCarbon, also by stage.

CodeCarbon measures one task at a time, and its tasks cannot be nested. So a change of the stage ends a task and begins the next
one, and the tasks of a stage are added up. The change itself is not counted. It took 7 ms on a machine with 80 processes, and
takes longer with more, because CodeCarbon searches the list of processes for children. A stage that is short compared with the
change therefore shares a task with the next stage, and the energy is divided by their times.
`codecarbon_tracker` states which energy is measured and which is estimated.

Nothing here affects the work: if a counter, a driver or CodeCarbon fails, the result names the reason.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from medsam2_atlas.base.codecarbon_tracker import described, grams, new_tracker
from medsam2_atlas.base.energy_config import energy_config
from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.base.stages import Observer, observing

log = logging.getLogger(__name__)

_lock = threading.Lock()
_MAX_CHANGING = 0.1
"""Max duration of a change of the task, as a fraction of the task that it ends."""


@cache
def _tracker() -> Any:
    return new_tracker(energy_config())


@dataclass
class Spent:
    """Time and energy of one or more tasks.

    Attributes:
        seconds: wall time, s.
        watt_hours: energy, Wh.
        co2_grams: CO2e, g; None if unknown.
    """

    seconds: float = 0.0
    watt_hours: float = 0.0
    co2_grams: float | None = 0.0

    def add(self, watt_hours: float, co2_grams: float | None) -> None:
        """Adds the energy of a task."""
        self.watt_hours += watt_hours
        known = co2_grams is not None and self.co2_grams is not None
        self.co2_grams = self.co2_grams + co2_grams if known else None  # type: ignore[operator]


@dataclass(frozen=True)
class Reading:
    """The sum of all tasks of a meter so far.

    Attributes:
        watt_hours: energy, Wh; None if it was not measured.
        co2_grams: CO2e, g; None if unknown.
        how: what was measured, and what estimated; or why it was not measured.
        stages: the same by stage, without `how`, as JSON values.
    """

    watt_hours: float | None
    co2_grams: float | None
    how: str
    stages: dict[str, dict[str, float | None]] = field(default_factory=dict)


class Meter(Observer):
    """Measures the energy of this process between `start` and `stop`, by stage if it is registered as an observer.

    Only one meter measures at a time. Others measure no energy, and give the reason.
    """

    def __init__(self, off: str = "") -> None:
        """Prepares a measurement.

        Args:
            off: why only time is measured; empty: energy is measured, too.
        """
        super().__init__()
        self._spent: dict[str, Spent] = {}
        self._own, self._task, self._began, self._off = False, "", 0.0, off
        self._times: dict[str, float] = {}  # of the stages in the current task, s
        self._change = 0.0  # shortest duration of a change of the task, s
        self._how, self._problem = "", off or "other work ran beside it"

    def start(self) -> None:
        """Begins the measurement. The first one in a process takes about two seconds: CodeCarbon searches the hardware."""
        self._own = not self._off and _lock.acquire(blocking=False)
        if self._own:
            self._problem = ""
        self._begin()

    def switch(self, before: str) -> None:
        """Ends the current task, and begins one for the next stage, unless the task is too short."""
        self._pass(before)
        if sum(self._times.values()) * _MAX_CHANGING < self._change:
            return
        began = self._began
        self._end()
        self._begin()
        change = self._began - began
        self._change = min(change, self._change or change)

    def lap(self) -> None:
        """Ends the current task and begins the next one, so that `reading` contains all work until now."""
        self._pass(self.running)
        self._end()
        self._begin()

    def stop(self) -> None:
        """Ends the measurement; may be called twice."""
        try:
            if self._began:
                self._pass(self.running)
                self._end()
        finally:
            self._began = 0.0
            if self._own:
                self._own = False
                _lock.release()

    def reading(self) -> Reading:
        """Returns the sum of all tasks that have ended."""
        unknown, stages = bool(self._problem), {}
        for name, spent in self._spent.items():
            energy = (None, None) if unknown else (spent.watt_hours, spent.co2_grams)
            stages[name] = {
                "seconds": round(spent.seconds, 3),
                "watt_hours": rounded(energy[0]),
                "co2_grams": rounded(energy[1]),
            }
        if unknown:
            return Reading(None, None, f"not measured: {self._problem}", stages)
        total = Spent()
        for spent in self._spent.values():
            total.add(spent.watt_hours, spent.co2_grams)
        return Reading(total.watt_hours, total.co2_grams, self._how, stages)

    def _begin(self) -> None:
        """Begins a task; if that fails, energy is no longer measured."""
        if self._own and not self._problem:
            self._task = uuid.uuid4().hex
            try:
                _tracker().start_task(self._task)
            except Exception as error:  # noqa: BLE001 - drivers raise many types of errors, and none may discard a result
                self._fail(problem_of(error))
        self._times, self._began = {}, time.perf_counter()

    def _pass(self, stage: str) -> None:
        """Adds the time since the last change to a stage of the current task."""
        now = time.perf_counter()
        self._times[stage] = self._times.get(stage, 0.0) + now - self._began
        self._began = now

    def _end(self) -> None:
        """Ends the task, and adds its time and energy to its stages."""
        for stage, seconds in self._times.items():
            self._spent.setdefault(stage, Spent()).seconds += seconds
        if self._problem:
            return
        try:
            data = _tracker().stop_task(self._task)
            getattr(_tracker(), "_tasks", {}).pop(self._task, None)  # CodeCarbon would keep all tasks of a server
            if data is None:
                self._fail("CodeCarbon lost the task")
                return
            energy = float(data.energy_consumed) * 1000
            if not (math.isfinite(energy) and energy >= 0):  # a counter was reset, or a GPU has failed
                self._fail(f"CodeCarbon measured {energy} Wh")
                return
            emitted, total = grams(data), sum(self._times.values())
            for stage, seconds in self._times.items():
                share = seconds / total if total > 0 else 1 / len(self._times)
                self._spent[stage].add(energy * share, None if emitted is None else emitted * share)
            self._how = described(_tracker(), data, energy_config())
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(problem_of(error))

    def _fail(self, problem: str) -> None:
        """Records why energy is not measured. The next meter gets a new tracker, as this one may still contain the task."""
        log.info("energy is not measured: %s", problem)
        self._problem = problem
        with suppress(Exception):
            _tracker()._scheduler_monitor_power.stop()  # else its thread would query the driver every second forever
        _tracker.cache_clear()


@contextmanager
def measured(*, by_stage: bool = False, off: str = "") -> Iterator[dict[str, Any]]:
    """Measures the block; yields a dictionary that contains the energy after the block has ended.

    Its keys are `seconds`, `watt_hours`, `co2_grams` (g CO2e) and `how`. Only one block is measured at a time. If another one
    is being measured, or if the measurement fails, `watt_hours` and `co2_grams` are None and `how` gives the reason. The result
    and the errors of the block are not affected.

    Args:
        by_stage: also give `stages`, which maps each stage (see `stages`) to its `seconds`, `watt_hours` and `co2_grams`. The
            energy of the stages adds up to that of the block.
        off: why only time is measured; empty: energy is measured, too.
    """
    result: dict[str, Any] = {"seconds": None, "watt_hours": None, "co2_grams": None, "how": "not measured"}
    meter, began = Meter(off), time.perf_counter()
    try:
        meter.start()
        began = time.perf_counter()  # without the search for hardware
        if by_stage:
            with observing(meter):
                yield result
        else:
            yield result
    finally:
        result["seconds"] = round(time.perf_counter() - began, 3)
        meter.stop()
        found = meter.reading()
        result |= {"watt_hours": rounded(found.watt_hours), "co2_grams": rounded(found.co2_grams), "how": found.how}
        if by_stage:
            result["stages"] = found.stages


def rounded(value: float | None) -> float | None:
    """Returns a value with four significant digits; stages of milliseconds have energies of microwatt hours."""
    return None if value is None else float(f"{value:.4g}")
