"""Commands write lines to the audit log, which `studies audit` prints and checks; the files that they write are private."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from command_lines import labelled_studies
from medsam2_atlas.audit.entry import AuditEntry
from medsam2_atlas.audit.log import AuditLog
from medsam2_atlas.base import file_modes
from medsam2_atlas.cli import app
from medsam2_atlas.storage import StudyFolder, WorkFolder


@pytest.fixture(autouse=True)
def usual_umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(file_modes, "_begun_with", [])
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return labelled_studies(tmp_path / "studies", count=1)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def test_commands_that_change_or_export_label_maps_are_recorded(studies: Path, tmp_path: Path) -> None:
    for arguments in (("restore", studies, "case-0", 1), ("confirm", studies, "case-0")):
        assert invoke("labels", *arguments).exit_code == 0
    assert invoke("labels", "export", studies, "case-0", 1, tmp_path / "out.nii.gz").exit_code == 0
    result = invoke("studies", "audit", studies, "--study", "case-0", "--json")
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["action"], line["version"]) for line in found] == [
        ("label.restore", 2),
        ("label.confirm", 3),
        ("export.label", 1),
    ]
    assert all("case-0" not in line for line in result.stdout.splitlines())
    assert invoke("studies", "audit", studies, "--study", "case-1", "--json").stdout == ""


def test_backups_and_restores_are_recorded_and_a_restored_log_continues(studies: Path, tmp_path: Path) -> None:
    dest, back = tmp_path / "dest", tmp_path / "back"
    assert invoke("studies", "backup", studies, tmp_path / "first").exit_code == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert invoke("studies", "backup", studies, tmp_path / "other").exit_code != 0
    assert invoke("studies", "backup", studies, dest).exit_code == 0
    assert invoke("studies", "restore", dest, back).exit_code == 0
    result = invoke("studies", "audit", back, "--action", "studies", "--json")
    assert (result.exit_code, "3 lines were checked; " in result.stderr) == (0, True), result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["action"], line["outcome"]) for line in found] == [
        ("studies.backup", "done"),
        ("studies.backup", "failed"),
        ("studies.restore", "done"),
    ]
    assert found[-1]["details"]["from"] == str(dest)
    assert json.loads(invoke("studies", "audit", studies, "--json").stdout.splitlines()[-1])["details"]["snapshot"]


def test_opening_a_folder_does_not_change_the_umask_but_a_command_does(studies: Path) -> None:
    assert StudyFolder(studies).studies()
    assert os.umask(0o022) == 0o022
    assert invoke("labels", "list", studies).exit_code == 0
    assert os.umask(0o022) == 0o077


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_root_does_not_lock_the_server_out_of_its_audit_log(studies: Path, tmp_path: Path) -> None:
    for path in (studies, *studies.rglob("*")):
        os.chown(path, 12345, 12345)
    shutil.rmtree(studies / ".medsam2_atlas")
    assert invoke("studies", "backup", studies, tmp_path / "dest").exit_code == 0
    AuditLog(WorkFolder.of(studies).path).record(AuditEntry("label.save", study="case-0"))
    made = [path for path in (studies / ".medsam2_atlas").rglob("*") if path.name in ("audit", "audit.jsonl", "names.key")]
    assert len(made) == 3
    assert {path.stat().st_uid for path in (*made, studies / ".medsam2_atlas")} == {12345}


def test_a_changed_line_is_reported_with_exit_status_1(studies: Path) -> None:
    log = AuditLog.of(WorkFolder.of(studies))
    for who in ("kim", "lee"):
        log.record(AuditEntry("label.save", who=f"{who}\x1b[2J", study="case-0"))
    result = invoke("studies", "audit", studies)
    assert (result.exit_code, "2 lines were checked" in result.stdout) == (0, True)
    assert "\x1b[2J" not in result.stdout
    file = log.files.folder / "audit.jsonl"
    file.write_text(file.read_text().replace("kim", "eve"))
    result = invoke("studies", "audit", studies)
    assert result.exit_code == 1
    assert "audit.jsonl, line 2: the line before it was changed or removed." in result.output


def test_a_missing_folder_is_refused_and_an_empty_one_has_no_lines(tmp_path: Path) -> None:
    assert "is not a folder" in str(invoke("studies", "audit", tmp_path / "none").exception)
    result = invoke("studies", "audit", tmp_path)
    assert "0 lines were checked" in result.stdout
    assert not list(tmp_path.iterdir())


def test_commands_write_private_files_except_at_paths_that_the_user_names(tmp_path: Path) -> None:
    studies = labelled_studies(tmp_path / "studies", count=1)
    for file in [*studies.rglob("*.sqlite"), *(studies / ".medsam2_atlas").rglob("*.nii.gz")]:
        assert file.stat().st_mode & 0o044  # the test itself has made these, with the usual umask
    before = set(studies.rglob("*"))
    assert invoke("labels", "restore", studies, "case-0", 1).exit_code == 0
    made = {path: oct(path.stat().st_mode & 0o777) for path in set(studies.rglob("*")) - before}
    assert made
    assert {mode for path, mode in made.items() if path.is_file()} == {"0o600"}
    assert {mode for path, mode in made.items() if path.is_dir()} <= {"0o700"}
    assert invoke("labels", "export", studies, "case-0", 1, tmp_path / "out.nii.gz").exit_code == 0
    assert (tmp_path / "out.nii.gz").stat().st_mode & 0o777 == 0o644


def test_all_versions_are_listed(studies: Path) -> None:
    assert invoke("labels", "restore", studies, "case-0", 1).exit_code == 0
    result = invoke("labels", "list", studies)
    numbers = re.findall(r"case-0\W+final\W+(\d+)", result.output)
    assert (result.exit_code, numbers) == (0, ["1", "2"])
