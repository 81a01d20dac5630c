"""`medsam2-atlas data prepare` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from downloads import amos
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.datasets import layout_names, read_dataset


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "prepare", *(str(argument) for argument in arguments)])


def test_a_download_becomes_references_and_targets(tmp_path: Path) -> None:
    source, out = amos(tmp_path / "data", 1, 2, 507), tmp_path / "out"
    done = ran("amos", source, out, "--references", "amos_0001", "--targets", "amos_0002, amos_0004", "--partial")
    assert done.exit_code == 0, done.output
    assert f"1 references and 1 targets of AMOS22 are in {out}; 2 were written now" in done.output
    assert "1 left out:" in done.output and "amos_0004: is not in the folder" in done.output
    assert "1 cases are not CTs" in done.output
    dataset = read_dataset(out / "targets" / "labels")
    assert dataset is not None and [case.name for case in dataset.cases] == ["amos_0001", "amos_0002"]


def test_all_annotated_cts_become_targets(tmp_path: Path) -> None:
    done = ran("amos", amos(tmp_path / "data", 1, 2), tmp_path / "out", "--all")
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "out" / "targets" / "labels").iterdir()) == [
        "amos_0001.nii.gz", "amos_0002.nii.gz"
    ]  # fmt: skip


def test_the_published_split_needs_all_its_cases(tmp_path: Path) -> None:
    done = ran("amos", amos(tmp_path / "data", 36), tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert "lacks 44 of 45 cases" in str(done.exception) and "--partial" in done.exception.remedy
    assert not (tmp_path / "out").exists()


def test_a_users_own_layout_is_read_from_its_file(tmp_path: Path) -> None:
    amos(tmp_path / "data", 1)
    own = {"title": "Own", "images": ["imagesTr/{case}"], "labels": ["labelsTr/{case}"], "values": {1: "liver", 6: "spleen"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own | {"ignored": [10]}))
    done = ran(tmp_path / "own.yaml", tmp_path / "data", tmp_path / "out")
    assert done.exit_code == 0, done.output
    dataset = read_dataset(tmp_path / "out")
    assert dataset is not None and dataset.annotated == ("spleen", "liver") and dataset.layout == "own"


def test_the_help_names_every_layout() -> None:
    text = CliRunner().invoke(app, ["data", "prepare", "--help"]).output
    assert all(name in text for name in layout_names())
