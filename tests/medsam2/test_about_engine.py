"""Reports and `doctor` say which library multiplies the engine's matrices, and how fast."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from medsam2_atlas.cli import app
from medsam2_atlas.medsam2 import MedSAM2Config, describe_engine, linear

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the measurement, which takes time and differs between machines."""
    monkeypatch.setattr(linear, "measured", lambda: linear.Measurement(84.0, 105.0, ""))


def test_on_the_cpu_the_engine_is_described_by_its_library_and_both_rates() -> None:
    assert describe_engine(CPU) == "oneDNN (105 GFLOP/s, PyTorch 84)"


def test_a_configured_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "medsam2_config", lambda: MedSAM2Config(linear="torch"))
    assert describe_engine(CPU) == "PyTorch (as configured)"


def test_on_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(linear, "measured")
    assert describe_engine(torch.device("cuda:0")) == "PyTorch"


def test_doctor_prints_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["doctor", "--dicomweb", "http://127.0.0.1:9/"])
    assert "oneDNN (105 GFLOP/s, PyTorch 84)" in done.output
