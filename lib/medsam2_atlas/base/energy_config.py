"""Settings of the measurement of energy; values in `configs/energy.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class EnergyConfig(Settings):
    """Settings of the measurement of energy. They do not affect label maps."""

    country: str = Field(
        "DEU",
        pattern="^[A-Z]{3}$",
        description="country of the machine, ISO 3166-1 alpha-3: its electricity mix converts energy to CO2e, as in the data "
        "that CodeCarbon contains (DEU: 381 g/kWh, FRA: 56 g/kWh)",
    )
    grams_per_kwh: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="CO2e of the machine's electricity, g/kWh, instead of the country's mean, for example from the "
        "electricity bill",
    )
    interval_seconds: float = Field(
        1.0,
        ge=0.2,
        le=60,
        description="time between two readings of load and power, s. The load of a child process that is shorter than the "
        "interval is missed. One reading takes 3 to 10 ms of one core, more with many processes on the machine",
    )


@read_once
def energy_config(file: Path | None = None) -> EnergyConfig:
    """Reads the settings from a file, by default `configs/energy.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(EnergyConfig, file or resource("configs/energy.yaml"), "configuration of the measurement of energy")
