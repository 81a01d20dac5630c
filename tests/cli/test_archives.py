"""Output and exit status of the commands `studies verify`, `backup`, `restore` and `snapshots`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from command_lines import labelled_studies, run
from medsam2_atlas.archive import Place, Vault
from medsam2_atlas.cli import app
from medsam2_atlas.storage import StudyStore


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    return labelled_studies(tmp_path / "studies")


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["studies", *map(str, words)])


def damaged(studies: Path) -> Path:
    file = studies / ".medsam2_atlas/versions/final/case-0/00001.nii.gz"
    file.write_bytes(file.read_bytes()[:-1])
    return file


def test_a_backup_is_made_listed_verified_and_restored(studies: Path, tmp_path: Path) -> None:
    dest, back = tmp_path / "dest", tmp_path / "back"
    for _ in range(2):
        made = command("backup", studies, dest)
        assert made.exit_code == 0, made.output
    assert "new contents: 1" in made.output  # the audit log, which now has a line about the first backup
    listed = command("snapshots", dest)
    assert listed.exit_code == 0
    assert command("verify", dest).exit_code == 0
    restored = command("restore", dest, back)
    assert restored.exit_code == 0, restored.output
    assert "no problems" in restored.output
    assert StudyStore(back).labels().keys() == StudyStore(studies).labels().keys()


def test_a_verification_of_damaged_files_exits_with_1_and_writes_a_report(studies: Path, tmp_path: Path) -> None:
    assert command("verify", studies).exit_code == 0
    file = damaged(studies)
    found = command("verify", studies, "--report", tmp_path / "found.json")
    assert found.exit_code == 1
    assert f"{file.relative_to(studies)} has changed since it was saved. Restore it from a backup." in found.output
    assert "1 problem\n" in found.output
    (entry,) = json.loads((tmp_path / "found.json").read_text())
    assert (entry["path"], entry["lost"]) == (str(file.relative_to(studies)), True)


def test_a_backup_of_damaged_studies_exits_with_1_and_removes_no_snapshot(studies: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    damaged(studies)
    assert command("backup", studies, dest).exit_code == 1
    again = command("backup", studies, dest, "--keep", "1")
    assert again.exit_code == 1
    assert "no snapshot was removed" in again.output
    assert len(Vault.existing(dest).names()) == 2


def test_a_restore_from_a_backup_without_images_succeeds(studies: Path, tmp_path: Path) -> None:
    assert command("backup", studies, tmp_path / "dest", "--no-images").exit_code == 0
    assert command("restore", tmp_path / "dest", tmp_path / "back").exit_code == 0
    missed = command("verify", tmp_path / "back")
    assert missed.exit_code == 1
    assert "case-0 is missing: the image of a study that has label maps" in missed.output


def test_a_restore_from_a_damaged_backup_exits_with_1(studies: Path, tmp_path: Path) -> None:
    command("backup", studies, tmp_path / "dest")
    vault = Vault.existing(tmp_path / "dest")
    version = vault.snapshot().entries[".medsam2_atlas/versions/final/case-0/00001.nii.gz"]
    vault.content(version.sha256).write_bytes(b"other")
    restored = command("restore", tmp_path / "dest", tmp_path / "back")
    assert restored.exit_code == 1
    assert "is damaged in the backup" in restored.output
    assert command("snapshots", tmp_path / "dest").exit_code == 0


def test_missing_studies_and_backups_are_refused(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path / "models"))
    for words, problem in (
        (("verify", tmp_path / "none"), "is not a folder"),
        (("backup", "http://pacs.example.org/dicom-web", tmp_path / "dest"), "has no work folder here"),
        (("restore", tmp_path / "none", tmp_path / "back"), "is not a backup"),
        (("snapshots", studies), "is not a backup"),
    ):
        refused = command(*words)
        assert refused.exit_code == 1
        assert problem in str(refused.exception)
    assert not (tmp_path / "dest").exists()
    assert not Place.of("http://pacs.example.org/dicom-web").root.exists()


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[31mred", "bad\udcff"])
def test_control_characters_in_file_names_do_not_reach_the_terminal(studies: Path, name: str) -> None:
    (studies / "labels" / name).symlink_to("/")
    shown = command("verify", studies).stdout
    assert "a symbolic link leads out" in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_verify_and_backup_import_no_heavy_library_for_a_plain_folder(studies: Path, tmp_path: Path) -> None:
    for words in (["verify", str(studies)], ["snapshots", str(tmp_path)]):
        assert run(["studies", *words]).heavy == []
