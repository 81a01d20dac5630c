"""A report names the format in which the engine computed, also if a setting fixes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medsam2_atlas.medsam2 import MedSAM2Config, about_engine
from medsam2_atlas.segmenters.engine_fields import engine_fields


@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_the_precision_of_fast_mode_is_the_configured_one(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MedSAM2Config.model_validate({"fast_precision": given})
    monkeypatch.setattr(about_engine, "medsam2_config", lambda: config)
    weights: Any = SimpleNamespace(device=torch.device("cpu"), mark="demo", describe=lambda: {"sha256": "w"})
    found = engine_fields(weights, "fast")
    assert (found["precision"], found["mode"], found["device"], found["mark"]) == (given, "fast", "cpu", "demo")
    assert engine_fields(weights, "exact")["precision"] == "float32"
