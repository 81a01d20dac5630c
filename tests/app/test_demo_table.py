"""The demo's table fits a terminal of 80 columns."""

from __future__ import annotations

import importlib.util
import sys
from io import StringIO

import pytest
from rich.console import Console

from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.strategies import STRATEGIES


def test_no_cell_is_cut_off_or_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("demo_program", resource("apps/demo.py"))
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, demo)
    spec.loader.exec_module(demo)
    table, stream = demo.strategy_table(), StringIO()
    names = [*(organ.display for organ in organ_table().organs), "s, registration"]
    for name in names:
        table.add_row(name, *("100.1" for _ in STRATEGIES))
    Console(file=stream, width=80).print(table)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in stream.getvalue()
    for name in names:
        assert any(line.strip().startswith(name) and line.count("100.1") == len(STRATEGIES) for line in lines)
