"""The studies folder that most tests here begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.test_store import ct


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two CTs, `a` and `b`."""
    for name in ("a", "b"):
        ct(tmp_path / "studies", name)
    return tmp_path / "studies"
