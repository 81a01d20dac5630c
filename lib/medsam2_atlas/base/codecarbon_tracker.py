"""Creates CodeCarbon's tracker, and describes what it measures and what it estimates.

CodeCarbon 3 reads the processor's counter (RAPL) and the GPU driver's (NVML, AMD SMI) if the machine exposes them. Without a
counter, it estimates the processor's energy from its rated power and the load of this process and its children. The memory's
energy is always estimated from the memory in use. The network is not used.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from medsam2_atlas.base.energy_config import EnergyConfig
from medsam2_atlas.base.errors import InputError

_COUNTERS = {
    "intel_rapl": "RAPL",
    "windows_emi": "EMI",
    "intel_power_gadget": "Power Gadget",
    "apple_powermetrics": "powermetrics",
}
"""Names of processors' counters, by CodeCarbon's name of its mode."""


def new_tracker(config: EnergyConfig) -> Any:
    """Returns a tracker of this process.

    Raises:
        InputError: if CodeCarbon has no data of the country; it would silently use the world's mean.
    """
    from codecarbon import OfflineEmissionsTracker  # slow to import, and not needed by most commands
    from codecarbon.input import DataSource

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    if config.grams_per_kwh is None and config.country not in DataSource().get_global_energy_mix_data():
        raise InputError(
            "configs/energy.yaml", f"names the country {config.country}, of which CodeCarbon has no data.", "Set grams_per_kwh."
        )
    tracker = OfflineEmissionsTracker(
        country_iso_code=config.country,
        force_carbon_intensity_g_co2e_kwh=config.grams_per_kwh,
        save_to_file=False,
        log_level="error",
        tracking_mode="process",
        measure_power_secs=config.interval_seconds,
        allow_multiple_runs=True,
    )
    # CodeCarbon reads the power of tasks every second, whatever `measure_power_secs` is.
    tracker._scheduler_monitor_power.interval = config.interval_seconds
    return tracker


def grams(data: Any) -> float | None:
    """Returns the CO2e of a task, g; None if CodeCarbon gives no valid value."""
    kilograms = getattr(data, "emissions", None)
    if not isinstance(kilograms, (int, float)) or not math.isfinite(kilograms) or kilograms < 0:
        return None
    return kilograms * 1000


def described(tracker: Any, data: Any, config: EnergyConfig) -> str:
    """Returns a text on whose energy was measured, by which counters, and what was estimated.

    Args:
        tracker: CodeCarbon's tracker.
        data: its result for a task.
        config: settings of the tracker.
    """
    hardware = list(getattr(tracker, "_hardware", None) or ())
    processor = data.cpu_model or "this machine"
    counter = next((_COUNTERS[mode] for item in hardware if (mode := getattr(item, "_mode", None)) in _COUNTERS), None)
    # A counter counts the whole processor, although the tracker's mode is `process`.
    parts = [f"everything that ran on {processor}" if counter else f"this process on {processor}"]
    if data.gpu_model:
        parts.append(f"with everything that ran on {data.gpu_model}")
    text = f"CodeCarbon, {', '.join(parts)}"
    if not hardware:
        return text
    by_counter = [f"processor ({counter})"] if counter else []
    by_counter += ["GPU (driver)"] if data.gpu_model else []
    by_model = [] if counter else ["processor (rated power and load)"]
    by_model.append("memory (size)")
    text += f"; measured: {', '.join(by_counter)}" if by_counter else ""
    text += f"; estimated: {', '.join(by_model)}"
    if grams(data) is None:
        return text
    electricity = f"in {config.country}" if config.grams_per_kwh is None else f"with {config.grams_per_kwh:g} g/kWh"
    return f"{text}; CO2e: electricity {electricity}"
