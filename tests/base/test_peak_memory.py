"""Peak memory of a block of work, by stage."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from medsam2_atlas.base import peak_memory as module
from medsam2_atlas.base.peak_memory import peak_memory
from medsam2_atlas.base.stages import stage

linux = pytest.mark.skipif(sys.platform != "linux", reason="peaks by stage need Linux")


def use_memory(mebibytes: int) -> None:
    """Takes and frees memory."""
    np.ones(mebibytes * 2**17)


@linux
def test_each_stage_has_its_own_peak() -> None:
    with peak_memory() as found:
        with stage("large"):
            use_memory(160)
        with stage("small"):
            use_memory(16)
        with stage("large"):
            use_memory(16)
    peaks = {name: peak["mib"] for name, peak in found["stages"].items()}
    assert set(peaks) == {"other", "large", "small"}
    assert peaks["large"] - peaks["small"] == pytest.approx(144, abs=30)
    assert found["mib"] == peaks["large"]
    assert found["gpu_mib"] is None or torch.cuda.is_initialized()
    assert "problem" not in found


@linux
def test_memory_that_was_freed_before_the_block_does_not_count() -> None:
    use_memory(160)
    with peak_memory() as first:
        use_memory(160)
    with peak_memory() as second:
        pass
    assert first["mib"] - second["mib"] > 100


@pytest.mark.parametrize(
    ("file", "content"), [("_RESET", None), ("_STATUS", None), ("_STATUS", "Name: x\n"), ("_STATUS", "VmHWM: ?")]
)
def test_a_peak_that_cannot_be_read_is_unknown_with_the_reason(
    file: str, content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_RESET", tmp_path / "reset")
    monkeypatch.setattr(module, file, tmp_path / "folder" / "missing" if content is None else tmp_path / "status")
    (tmp_path / "status").write_text(content or "")
    with peak_memory() as found, stage("network"):
        done = "the result"
    assert done
    assert found["mib"] is None
    assert found["stages"]["network"]["mib"] is None
    assert found["problem"]


def test_only_one_of_two_simultaneous_blocks_is_measured() -> None:
    with peak_memory() as outer, peak_memory() as inner:
        pass
    assert "same time" in inner["problem"]
    assert inner["mib"] is None
    assert "problem" not in outer or sys.platform != "linux"
    with peak_memory() as later:
        pass
    assert "same time" not in later.get("problem", "")


def test_the_block_keeps_its_error() -> None:
    with pytest.raises(ZeroDivisionError), peak_memory(), stage("network"):
        _ = 1 / 0
    with peak_memory() as later:
        pass
    assert "same time" not in later.get("problem", "")


def test_gpu_memory_is_the_peak_of_each_stage(gpu: Gpu) -> None:
    with gpu() as device:
        kept = torch.zeros(2**18, device=device)  # 1 MiB
        with peak_memory() as found:
            with stage("network"):
                more = torch.zeros(2**20, device=device)  # 4 MiB
                del more
            with stage("fusion"):
                _ = kept + 1
    assert found["stages"]["network"]["gpu_mib"] >= 5
    assert found["stages"]["fusion"]["gpu_mib"] < found["stages"]["network"]["gpu_mib"]
    assert found["gpu_mib"] == found["stages"]["network"]["gpu_mib"]


def test_a_gpu_that_fails_does_not_affect_the_work(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("CUDA error: unspecified launch failure")

    with gpu() as device:
        _ = torch.zeros(8, device=device)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", fail)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", fail)
        with peak_memory() as found, stage("network"):
            done = "the result"
    assert done
    assert found["gpu_mib"] is None
