"""The studies folder for most tests of storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.test_store import ct


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a studies folder with two CTs, `a` and `b`."""
    for name in ("a", "b"):
        ct(tmp_path / "studies", name)
    return tmp_path / "studies"
