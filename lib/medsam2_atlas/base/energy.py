"""How much energy a block of work takes, by CodeCarbon.

Where the machine has counters (RAPL, NVML) they are read; elsewhere CodeCarbon estimates from the processor's rated power
and this process's load. A GPU's energy is that of the whole card. Nothing is sent or looked up on the network.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)

_lock = threading.Lock()
_INTERVAL_SECONDS = 2
"""Between two looks at power: short against a case, and rare enough not to cost energy itself."""


@cache
def _tracker() -> Any:
    from codecarbon import OfflineEmissionsTracker  # slow to import, and not needed by most commands

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    return OfflineEmissionsTracker(
        country_iso_code="DEU",  # asked for, but only energy is used
        save_to_file=False,
        log_level="error",
        tracking_mode="process",
        measure_power_secs=_INTERVAL_SECONDS,
        allow_multiple_runs=True,
    )


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """A dictionary that holds `seconds`, `watt_hours` and `how` once the block has ended.

    One block at a time is measured; for a block that runs beside another, or where the measurement fails in whatever way,
    `watt_hours` is None and `how` says why. The block's own result and errors are not affected.
    """
    result: dict[str, Any] = {"seconds": None, "watt_hours": None, "how": "not measured: other work ran beside it"}
    began = time.perf_counter()
    name = uuid.uuid4().hex
    own = _lock.acquire(blocking=False)
    try:
        started = own and _started(name, result)
        try:
            yield result
        finally:
            result["seconds"] = round(time.perf_counter() - began, 3)
            if started:
                _stop(name, result)
    finally:
        if own:
            _lock.release()


def _started(name: str, result: dict[str, Any]) -> bool:
    """Returns whether the measurement of a task began; if not, `how` says why."""
    try:
        _tracker().start_task(name)
    except Exception as error:  # noqa: BLE001 - a driver's errors are of many types, and none may cost a result
        _fail(result, problem_of(error))
        return False
    return True


def _stop(name: str, result: dict[str, Any]) -> None:
    """Ends the measurement of a task, and adds what it found to the result."""
    try:
        data = _tracker().stop_task(name)
        if data is None:
            _fail(result, "CodeCarbon lost the task")
            return
        energy = float(data.energy_consumed) * 1000
        if not (math.isfinite(energy) and energy >= 0):  # a counter that was reset, or a GPU that has failed
            _fail(result, f"CodeCarbon measured {energy} Wh")
            return
        parts = [f"this process on {data.cpu_model}"] if data.cpu_model else ["this process on this machine"]
        if data.gpu_model:
            parts.append(f"with all that ran on {data.gpu_model}")
        result["watt_hours"], result["how"] = round(energy, 4), f"CodeCarbon, {', '.join(parts)}"
    except Exception as error:  # noqa: BLE001 - as above
        _fail(result, problem_of(error))


def _fail(result: dict[str, Any], problem: str) -> None:
    """Records why energy was not measured. The next block gets a new tracker: this one may still hold the task."""
    log.info("energy is not measured: %s", problem)
    result["how"] = f"not measured: {problem}"
    with suppress(Exception):
        _tracker()._scheduler_monitor_power.stop()  # its thread would ask the driver each second for ever
    _tracker.cache_clear()
