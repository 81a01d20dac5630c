"""CodeCarbon's tracker, and the text on what was measured and what was estimated."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from medsam2_atlas.base.codecarbon_tracker import described, grams, new_tracker
from medsam2_atlas.base.energy_config import EnergyConfig
from medsam2_atlas.base.errors import InputError

MEMORY = SimpleNamespace()


def text(*modes: str, gpu: str = "", **settings: Any) -> str:
    """Returns the text for a machine whose processor CodeCarbon measures in a mode."""
    tracker = SimpleNamespace(_hardware=[MEMORY, *(SimpleNamespace(_mode=mode) for mode in modes)])
    data = SimpleNamespace(cpu_model="a CPU", gpu_model=gpu, energy_consumed=0.001, emissions=0.0004)
    return described(tracker, data, EnergyConfig(**settings))


def test_energy_without_a_counter_is_called_estimated() -> None:
    assert text("cpu_load") == (
        "CodeCarbon, this process on a CPU; estimated: processor (rated power and load), memory (size); "
        "CO2e: electricity in DEU"
    )


def test_a_counter_counts_all_that_ran_on_the_processor() -> None:
    assert text("intel_rapl", country="FRA") == (
        "CodeCarbon, everything that ran on a CPU; measured: processor (RAPL); estimated: memory (size); "
        "CO2e: electricity in FRA"
    )


def test_the_energy_of_a_gpu_is_called_measured() -> None:
    assert "with everything that ran on 1 x A GPU; measured: GPU (driver); estimated: processor" in text(
        "cpu_load", gpu="1 x A GPU"
    )


def test_given_emissions_per_kilowatt_hour_are_named() -> None:
    assert text("cpu_load", grams_per_kwh=12.5).endswith("CO2e: electricity with 12.5 g/kWh")


@pytest.mark.parametrize("emissions", [None, "much", float("nan"), -1.0])
def test_invalid_emissions_are_unknown(emissions: Any) -> None:
    assert grams(SimpleNamespace(emissions=emissions)) is None


def test_a_country_without_data_is_refused_instead_of_using_the_mean_of_the_world() -> None:
    with pytest.raises(InputError, match="XXX"):
        new_tracker(EnergyConfig(country="XXX"))
    assert new_tracker(EnergyConfig(country="XXX", grams_per_kwh=1.0))


@pytest.mark.parametrize(("settings", "expected"), [({}, 381), ({"country": "FRA"}, 56), ({"grams_per_kwh": 100.0}, 100)])
def test_the_country_or_the_given_value_converts_energy_to_co2(settings: dict[str, Any], expected: float) -> None:
    tracker = new_tracker(EnergyConfig(**settings))
    tracker.start_task("work")
    time.sleep(0.05)
    data = tracker.stop_task("work")
    assert (grams(data) or 0) / data.energy_consumed == pytest.approx(expected, rel=0.01)


def test_power_is_read_at_the_interval_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = new_tracker(EnergyConfig(interval_seconds=0.2))
    readings: list[float] = []
    monkeypatch.setattr(tracker._scheduler_monitor_power, "function", lambda: readings.append(time.perf_counter()))
    tracker.start_task("work")
    deadline = time.perf_counter() + 5
    while not readings and time.perf_counter() < deadline:
        time.sleep(0.02)
    tracker.stop_task("work")
    assert readings
