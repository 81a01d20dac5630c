"""Processes that read training patches: their number, and the training's behaviour if they fail."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from medsam2_atlas.unet import unet_config, with_training, workers
from medsam2_atlas.unet.workers import PatchLoader, batch_bytes, worker_count

CONFIG = unet_config("unet_3d")


class Numbers:
    """A data set of six numbers. A reading process fails at its third number."""

    def __init__(self, fault: str) -> None:
        self._fault, self._read = fault, 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> torch.Tensor:
        self._read += 1
        if get_worker_info() is not None and self._read == 3:
            if self._fault == "killed":
                os.kill(os.getpid(), signal.SIGBUS)
            raise RuntimeError(self._fault)
        return torch.tensor([number])


def read(data: Any, count: int) -> tuple[list[int], PatchLoader]:
    """Returns the numbers of an epoch in order, and the loader."""
    generator = torch.Generator().manual_seed(7)
    loader = PatchLoader(data, batch_size=1, shuffle=True, num_workers=count, generator=generator, collate_fn=torch.cat)
    return [int(batch) for batch in loader], loader


FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


@pytest.mark.parametrize("fault", [pytest.param("killed", marks=pytest.mark.slow), FULL])  # PyTorch checks every 5 s
def test_a_process_that_dies_does_not_end_a_training_or_lose_a_case(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = read(Numbers(""), 0)
    with caplog.at_level(logging.WARNING):
        found, loader = read(Numbers(fault), 1)
    assert found == expected
    assert sorted(found) == list(range(6))
    assert loader.num_workers == 0  # for all later epochs
    assert [int(batch) for batch in loader] != []
    assert "docker run --shm-size 1g" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_error_of_a_case_is_not_mistaken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="broken file"):
        read(Numbers("broken file"), 1)


@pytest.mark.parametrize(
    ("free", "processes", "expected"),
    [
        (64 << 20, 16, 5),  # a container's default
        (64 << 20, 4, 4),
        (1 << 30, 16, 8),
        (1 << 20, 16, 0),
        (0, 16, 0),
        (None, 16, 0),
    ],
)
def test_shared_memory_limits_the_number_of_processes(
    free: int | None, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def statvfs(_: Path) -> SimpleNamespace:
        if free is None:
            raise FileNotFoundError
        return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)

    monkeypatch.setattr(workers.os, "statvfs", statvfs)
    monkeypatch.setattr(workers, "processors", lambda: processes)
    assert worker_count(CONFIG) == expected
    assert (2 * expected + 1) * batch_bytes(CONFIG) < (free or 0) or expected == 0
    assert ("--shm-size" in caplog.text) == (expected < min(8, processes))


def test_a_batch_is_not_larger_than_its_estimate() -> None:
    doubled = with_training(CONFIG, {"cases_per_step": 2})
    arrays = 2 * 2 * 64**3 * 2 * 4  # cases, patches, voxels, image and label map, float32
    assert arrays < batch_bytes(doubled) < 1.02 * arrays
