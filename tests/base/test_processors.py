"""The number of CPUs that a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base import processors as module
from medsam2_atlas.base.processors import processors


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1), ("400000 100000", 4), ("max 100000", 6), ("", 6)])
def test_a_containers_cpu_quota_is_not_exceeded(
    quota: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(quota + "\n")
    monkeypatch.setattr(module, "_QUOTA", file)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(6)))
    assert processors() == expected
