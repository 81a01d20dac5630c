"""How much energy a block of work takes, by CodeCarbon.

Where the machine has counters (RAPL, NVML) they are read; elsewhere CodeCarbon estimates from the processor's rated power
and this process's load. Nothing is sent or looked up on the network.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

_lock = threading.Lock()


@cache
def _tracker() -> Any:
    from codecarbon import OfflineEmissionsTracker  # slow to import, and not needed by most commands

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    return OfflineEmissionsTracker(
        country_iso_code="DEU",  # asked for, but only energy is used
        save_to_file=False,
        log_level="error",
        tracking_mode="process",
        measure_power_secs=2,
        allow_multiple_runs=True,
    )


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """A dictionary that holds `seconds`, `watt_hours` and `how` once the block has ended.

    One block at a time is measured; for a block that runs beside another, `watt_hours` is None and `how` says why.
    """
    result: dict[str, Any] = {"seconds": None, "watt_hours": None, "how": ""}
    began = time.perf_counter()
    name = uuid.uuid4().hex
    own = _lock.acquire(blocking=False)
    try:
        if own:
            try:
                _tracker().start_task(name)
            except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
                log.info("energy is not measured: %s", error)
                result["how"] = f"not measured: {error}"
                _lock.release()
                own = False
        else:
            result["how"] = "not measured: other work ran beside it"
        yield result
    finally:
        result["seconds"] = round(time.perf_counter() - began, 3)
        if own:
            data = _tracker().stop_task(name)
            _lock.release()
            result["watt_hours"] = round(float(data.energy_consumed) * 1000, 4)
            parts = [str(part) for part in (data.cpu_model, data.gpu_model) if part]
            result["how"] = f"CodeCarbon, this process on {', '.join(parts) or 'this machine'}"
