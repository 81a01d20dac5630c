"""The rows of `doctor` about PyTorch's build, the driver and the GPUs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from medsam2_atlas.base.card_look import Card, Look
from medsam2_atlas.base.card_problems import NO_DRIVER, Trial
from medsam2_atlas.cli import doctor_device
from medsam2_atlas.cli.doctor_device import Row, device_rows

GIB = 1 << 30
RUNS = Card("cuda:0", "NVIDIA A40", "8.6", 40 * GIB, 48 * GIB, Trial())
BROKEN = Card("cuda:1", "Tesla M40", "5.2", 20 * GIB, 24 * GIB, Trial("its compute capability is 5.2", "Get another build."))
FULL = Card("cuda:0", "NVIDIA A40", "8.6", GIB // 10, 48 * GIB, Trial(full=True))


@pytest.fixture(autouse=True)
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor_device, "_may_have_card", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def rows(monkeypatch: pytest.MonkeyPatch, found: Look) -> list[Row]:
    monkeypatch.setattr(doctor_device, "_look", lambda: found)
    return list(device_rows())


def test_each_card_has_a_row_with_its_properties_and_kernel_test(monkeypatch: pytest.MonkeyPatch) -> None:
    build, runs, broken = rows(monkeypatch, Look((RUNS, BROKEN), "580.65.06", Trial()))
    assert build.state == "build for CUDA 13.0, driver 580.65.06"
    assert runs.state == "cuda:0: NVIDIA A40, compute capability 8.6, 40.0 of 48.0 GiB free; runs kernels"
    assert (runs.remedy, runs.good) == ("", True)
    assert broken.state.endswith("cannot be used: its compute capability is 5.2")
    assert (broken.remedy, broken.good) == ("Get another build.", False)


def test_a_full_card_is_not_reported_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows(monkeypatch, Look((FULL,), "580.65.06", Trial()))[1]
    assert "too little free memory" in row.state
    assert row.good


def test_the_cpu_is_listed_if_no_card_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows(monkeypatch, Look((BROKEN,), "", Trial()))[-1].state.startswith("cpu, ")


def test_an_outdated_driver_is_reported_instead_of_a_missing_card(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = Trial("the NVIDIA driver is too old", "Install driver 580 or newer.")
    row = rows(monkeypatch, Look((), "535.183.01", cause))[1]
    assert row == Row("device", "no card: the NVIDIA driver is too old", "Install driver 580 or newer.", good=False)


def test_nothing_is_missing_on_a_machine_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, Look((), "", NO_DRIVER))
    assert [row.state.split(",")[0] for row in found] == ["build for CUDA 13.0", "cpu"]
    assert all(row.good for row in found)
    monkeypatch.setattr(doctor_device, "_may_have_card", lambda: True)
    assert not all(row.good for row in rows(monkeypatch, Look((), "", NO_DRIVER)))


def test_a_cpu_build_on_a_machine_with_a_card_gets_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(doctor_device, "_look", lambda: pytest.fail("there is nothing to look at"))
    assert [row.remedy for row in device_rows()] == ["", ""]
    monkeypatch.setattr(doctor_device, "_may_have_card", lambda: True)
    build, processor = device_rows()
    assert "make install TORCH=cuda" in build.remedy
    assert processor.state.startswith("cpu, ")


def _with(monkeypatch: pytest.MonkeyPatch, program: str) -> list[Row]:
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return list(device_rows())


def test_a_driver_that_hangs_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_device, "LIMIT", 0.2)
    hangs, processor = _with(monkeypatch, "import time; time.sleep(60)")
    assert "has not finished within" in hangs.state
    assert not hangs.good
    assert processor.state.startswith("cpu, ")


def test_a_process_that_cannot_be_killed_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs:
        def __init__(self, command: list[str], **options: Any) -> None:
            self.command = command

        def communicate(self, timeout: float | None = None) -> Any:
            assert timeout is not None, "the doctor waits without a time limit"
            raise subprocess.TimeoutExpired(self.command, timeout)

        def kill(self) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Hangs)
    assert "has not finished within" in next(device_rows()).state


def test_a_driver_that_crashes_does_not_crash_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    crashes = _with(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")[0]
    assert "crashed (exit status -11)" in crashes.state
    assert not crashes.good


def test_only_the_last_line_of_the_other_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = Look((RUNS,), "580.65.06", Trial()).as_json()
    found = _with(monkeypatch, f"print('a library says hello'); print({printed!r})")
    assert found[1].state.startswith("cuda:0: NVIDIA A40")
