"""Modules stay small, and the app imports no array libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from medsam2_atlas.base.resource import resource

LIBRARY, APP = resource("lib/medsam2_atlas"), resource("apps/medsam2_atlas")
MODULES = sorted([*LIBRARY.rglob("*.py"), *APP.rglob("*.py")])
MAX_LINES = 350
ARRAYS = {"numpy", "torch", "scipy", "skimage", "SimpleITK"}
"""Libraries of arrays, which the app does not use; it gets files, volumes and reports from the library."""


def imported(file: Path) -> Iterator[str]:
    """Yields the names of the packages that a module imports, including imports in functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_modules_fit_on_a_few_screens() -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in MODULES}
    assert {str(file): count for file, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("room", ["datastores", "server", "tasks", "main.py"])
def test_the_app_imports_no_library_of_arrays(room: str) -> None:
    files = [APP / room] if room.endswith(".py") else sorted((APP / room).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := ARRAYS & {*imported(file)})} == {}


def test_test_files_have_different_names() -> None:
    # Pytest imports them by their names alone, so the second of two equal names cannot be collected.
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
