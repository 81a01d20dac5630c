"""Settings of the measurement of energy."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.energy_config import EnergyConfig, energy_config
from medsam2_atlas.base.errors import InputError


def test_the_file_contains_the_defaults() -> None:
    assert energy_config() == EnergyConfig()


@pytest.mark.parametrize(
    "content", ["country: Germany", "country: DE", "grams_per_kwh: -1", "interval_seconds: 0", "region: x"]
)
def test_invalid_settings_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "energy.yaml").write_text(content)
    with pytest.raises(InputError, match=content.split(":", maxsplit=1)[0]):
        energy_config(tmp_path / "energy.yaml")
