"""A backup contains all files of the folder in one state, and copies no content twice."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medsam2_atlas.archive import Place, Vault, back_up, restore, verify
from medsam2_atlas.archive import backup as backups
from medsam2_atlas.storage import StudyStore, Version
from storage.test_store import ct, label


def objects(dest: Path) -> set[str]:
    return {file.name for file in (dest / "objects").rglob("*") if file.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder by path, without indexes and the progress of verifications."""
    recreated = ("sqlite", "verified.jsonl", "verifying.jsonl")
    files = (file for file in folder.rglob("*") if file.is_file() and not any(end in file.name for end in recreated))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def versions(folder: Path, study: str, tag: str = "final") -> list[Version]:
    return StudyStore(folder).versions(study, tag)


def test_a_second_backup_writes_no_existing_content(place: Place, folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    first = back_up(place, dest)
    before = objects(dest)
    assert first.added == len(before) > 0
    assert back_up(place, dest).added == 0
    saved = StudyStore(folder).save_label("b", "final", label(tmp_path / "new.nii.gz", 9), author="lee")
    again = back_up(place, dest)
    new = objects(dest) - before
    assert again.added == len(new) == 2, "the label map and its record"
    assert saved.label.version.sha256 in new


def test_a_second_backup_reads_no_file_that_has_not_changed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(place, tmp_path / "dest")
    monkeypatch.setattr(Vault, "add", lambda *_: pytest.fail("a file was read"))
    assert len(back_up(place, tmp_path / "dest").snapshot.entries) == 13


def test_a_snapshot_is_a_tree_that_can_be_copied_back_without_the_program(place: Place, folder: Path, tmp_path: Path) -> None:
    made = back_up(place, tmp_path / "dest").snapshot
    shutil.copytree(tmp_path / "dest" / "snapshots" / made.name, tmp_path / "copied")
    assert contents(tmp_path / "copied") == contents(folder)
    assert [version.author for version in versions(tmp_path / "copied", "a")] == ["kim", "lee", "kim"]


def test_only_the_user_who_writes_a_backup_can_read_it(place: Place, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    back_up(place, dest)
    modes = {path.stat().st_mode & 0o077 for path in (dest, *dest.rglob("*"))}
    assert modes == {0}


def test_indexes_pictures_and_unfinished_files_are_not_copied(place: Place, folder: Path, tmp_path: Path) -> None:
    work = folder / ".medsam2_atlas"
    (work / "pictures").mkdir()
    for file in (folder / ".part-1234abcd.nii.gz", work / "pictures" / "a.png", work / "unreadable.json", folder / ".hidden"):
        file.write_bytes(b"x")
    entries = back_up(place, tmp_path / "dest").snapshot.entries
    assert not [path for path in entries if "part-" in path or "pictures" in path or "sqlite" in path or "hidden" in path]
    assert "a.nii.gz" in entries


def test_images_can_be_left_out(place: Place, tmp_path: Path) -> None:
    made = back_up(place, tmp_path / "dest", images=False).snapshot
    assert "labels/final/a.nii.gz" in made.entries
    assert not {"a.nii.gz", "b.nii.gz"} & set(made.entries)


def test_the_content_of_a_link_is_copied_and_a_link_that_leads_out_is_reported(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = ct(tmp_path / "archive", "c"), ct(tmp_path / "elsewhere", "d")
    (folder / "c.nii.gz").symlink_to(inside)
    (folder / "d.nii.gz").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    monkeypatch.setenv("MEDSAM2_ATLAS_ROOTS", str(inside.parent))
    made = back_up(Place.existing(str(folder)), tmp_path / "dest")
    assert "c.nii.gz" in made.snapshot.entries
    assert made.snapshot.problems == {}
    assert list(made.left_out) == ["d.nii.gz"]
    assert "leads out" in made.left_out["d.nii.gz"]


@pytest.mark.parametrize("path", ["labels", "labels/final", ".medsam2_atlas/versions", ".medsam2_atlas/reports"])
def test_no_folder_behind_a_link_that_leads_out_is_copied(folder: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a.nii.gz").write_bytes(b"secret")
    if (folder / path).exists():
        (folder / path).rename(tmp_path / "aside")
    (folder / path).symlink_to(tmp_path / "secrets")
    made = back_up(Place.existing(str(folder)), tmp_path / "dest")
    assert path in made.left_out
    assert not [file for file in (tmp_path / "dest/objects").rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


def test_pipes_do_not_stop_a_backup(place: Place, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.nii.gz")
    assert "a.nii.gz" in back_up(place, tmp_path / "dest").snapshot.entries


ODD = ["  x", "line\nbreak", "tab\t", "ünïcödé 𝄞", "quote\"'", "-rf", "%41", "a" * 240, "$(id)", "b;c", "*?", "back\\slash"]


def test_odd_names_are_restored(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    names = [*(f"{name}.nii.gz" for name in ODD), os.fsdecode(b"bad\xff\xfe.nii.gz")]
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(str(number).encode())
    made = back_up(Place.existing(str(folder)), tmp_path / "dest").snapshot
    assert sorted(made.entries) == sorted(names)
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    assert contents(tmp_path / "back") == contents(folder)


def test_a_damaged_version_is_reported_and_the_other_files_are_copied(
    place: Place, folder: Path, tmp_path: Path, flip: Callable[[Path], None]
) -> None:
    file = folder / ".medsam2_atlas/versions/final/a/00001.nii.gz"
    flip(file)
    made = back_up(place, tmp_path / "dest").snapshot
    assert list(made.problems) == [".medsam2_atlas/versions/final/a/00001.nii.gz"]
    assert len(made.entries) == 13


def test_a_version_that_was_damaged_after_a_backup_is_not_lost(
    place: Place, folder: Path, tmp_path: Path, flip: Callable[[Path], None]
) -> None:
    back_up(place, tmp_path / "dest")
    damaged, missing = (folder / f".medsam2_atlas/versions/final/a/0000{number}.nii.gz" for number in (1, 2))
    flip(damaged)
    missing.unlink()
    made = back_up(place, tmp_path / "dest", keep=1)
    assert len(made.snapshot.problems) == 2
    assert made.removed == (), "older snapshots may contain intact copies of damaged files"
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    assert verify(Place.existing(str(tmp_path / "back"))).sound


def test_an_unreadable_file_is_reported_and_the_other_files_are_copied(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = backups.opened

    def failing(file: Path, **options: bool) -> object:
        if file.name == "b.nii.gz":
            raise OSError(errno.EIO, "Input/output error")
        return original(file, **options)

    monkeypatch.setattr(backups, "opened", failing)
    made = back_up(place, tmp_path / "dest").snapshot
    assert "Input/output error" in made.problems["b.nii.gz"]
    assert "a.nii.gz" in made.entries
