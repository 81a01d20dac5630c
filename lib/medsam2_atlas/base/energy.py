"""Measures the energy of a block of work with CodeCarbon.

CodeCarbon reads the machine's counters (RAPL, NVML). Without counters, it estimates the energy from the processor's rated power
and this process's load. A GPU's energy is that of the whole card. The network is not used.
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
"""Time between two power readings: short compared with a case, and long enough that reading itself costs little energy."""


@cache
def _tracker() -> Any:
    from codecarbon import OfflineEmissionsTracker  # slow to import, and not needed by most commands

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    return OfflineEmissionsTracker(
        country_iso_code="DEU",  # a required argument; it affects emissions only, which are not used
        save_to_file=False,
        log_level="error",
        tracking_mode="process",
        measure_power_secs=_INTERVAL_SECONDS,
        allow_multiple_runs=True,
    )


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Measures the block; yields a dictionary that contains `seconds`, `watt_hours` and `how` after the block has ended.

    Only one block is measured at a time. If another block is being measured, or if the measurement fails, `watt_hours` is None
    and `how` gives the reason. The block's own result and errors are not affected.
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
    """Returns whether the measurement of a task began; if not, `how` gives the reason."""
    try:
        _tracker().start_task(name)
    except Exception as error:  # noqa: BLE001 - drivers raise many types of errors, and none may discard a result
        _fail(result, problem_of(error))
        return False
    return True


def _stop(name: str, result: dict[str, Any]) -> None:
    """Ends the measurement of a task, and adds the measured energy to the result."""
    try:
        data = _tracker().stop_task(name)
        if data is None:
            _fail(result, "CodeCarbon lost the task")
            return
        energy = float(data.energy_consumed) * 1000
        if not (math.isfinite(energy) and energy >= 0):  # a counter was reset, or a GPU has failed
            _fail(result, f"CodeCarbon measured {energy} Wh")
            return
        parts = [f"this process on {data.cpu_model}"] if data.cpu_model else ["this process on this machine"]
        if data.gpu_model:
            parts.append(f"with everything that ran on {data.gpu_model}")
        result["watt_hours"], result["how"] = round(energy, 4), f"CodeCarbon, {', '.join(parts)}"
    except Exception as error:  # noqa: BLE001 - as above
        _fail(result, problem_of(error))


def _fail(result: dict[str, Any], problem: str) -> None:
    """Records why energy was not measured. The next block gets a new tracker, as this one may still contain the task."""
    log.info("energy is not measured: %s", problem)
    result["how"] = f"not measured: {problem}"
    with suppress(Exception):
        _tracker()._scheduler_monitor_power.stop()  # else its thread would query the driver every second forever
    _tracker.cache_clear()
