"""Tables are results: they go to standard output, complete, and names from outside do not change them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_lines import labelled_studies
from medsam2_atlas.base.console import Table, show
from medsam2_atlas.cli import app

PATH = "/data/" + "x" * 300 + ".nii.gz"


def table() -> Table:
    made = Table("case", "file")
    made.add_row("a", PATH)
    return made


def test_a_table_for_another_program_has_one_line_per_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(table())
    shown = capsys.readouterr()
    assert shown.err == ""
    (row,) = [line for line in shown.out.splitlines() if "x" in line]
    assert PATH in row


def test_a_narrow_table_folds_a_long_path_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    show(table())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) == 60
    assert out.count("x") == 300
    assert "…" not in out


def test_label_maps_are_listed_on_standard_output_whatever_their_study_is_called(tmp_path: Path) -> None:
    labelled_studies(tmp_path)
    old = next(file for file in tmp_path.iterdir() if file.is_file())
    name = old.name.partition(".")[0]
    for file in sorted(tmp_path.rglob(f"{name}.*")):
        file.rename(file.with_name(file.name.replace(name, "ct [red] [*]", 1)))
    done = CliRunner().invoke(app, ["labels", "list", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    assert "ct [red] [*]" in done.stdout


OLD_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
import sys
from medsam2_atlas.base import version
from medsam2_atlas.base.console import Table, show
from medsam2_atlas.cli.main import main
version.package_version = lambda: show(Table("size \\u2026 3")) or ""
sys.argv = ["medsam2-atlas", "version"]
main()
"""


def test_a_table_in_an_old_locale_has_escapes() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=os.environ | OLD_LOCALE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"size \u2026 3" in done.stdout
