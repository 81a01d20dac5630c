"""Backups hold what the folder held, in one state, and copy nothing twice."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from medsam2_atlas.archive import Place, Vault, back_up, manifest, publishing, restore, verify, verify_backup
from medsam2_atlas.archive import backup as backups
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.storage import FolderLock, StudyStore, Version, checks
from storage.test_store import ct, label
from storage.writers import decode_here
from waiting import time_limit


def objects(dest: Path) -> set[str]:
    return {file.name for file in (dest / "objects").rglob("*") if file.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder by path, without indexes and the progress of verifications."""
    made_again = ("sqlite", "verified.jsonl", "verifying.jsonl")
    files = (file for file in folder.rglob("*") if file.is_file() and not any(end in file.name for end in made_again))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def versions(folder: Path, study: str, tag: str = "final") -> list[Version]:
    return StudyStore(folder).versions(study, tag)


def test_a_second_backup_writes_no_content_that_is_there(place: Place, folder: Path, tmp_path: Path) -> None:
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


def test_nobody_else_reads_a_backup(place: Place, tmp_path: Path) -> None:
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


def test_a_link_is_copied_by_content_and_one_that_leads_out_is_told(
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


def test_odd_names_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    names = [*(f"{name}.nii.gz" for name in ODD), os.fsdecode(b"bad\xff\xfe.nii.gz")]
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(str(number).encode())
    made = back_up(Place.existing(str(folder)), tmp_path / "dest").snapshot
    assert sorted(made.entries) == sorted(names)
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    assert contents(tmp_path / "back") == contents(folder)


def test_a_damaged_version_is_told_and_the_rest_goes_on(
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
    assert made.removed == (), "older snapshots may hold what is damaged now"
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    assert verify(Place.existing(str(tmp_path / "back"))).sound


def test_a_file_that_cannot_be_read_is_told_and_the_rest_goes_on(
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


def test_measures_are_copied_as_one_state_while_they_are_written(place: Place, folder: Path, tmp_path: Path) -> None:
    file = folder / ".medsam2_atlas/learning.sqlite"
    with closing(sqlite3.connect(file)) as base:
        base.execute("CREATE TABLE measures (study TEXT)")
        base.execute("INSERT INTO measures VALUES ('a')")
        base.commit()
        base.execute("INSERT INTO measures VALUES ('not committed')")
        back_up(place, tmp_path / "dest")
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    with closing(sqlite3.connect(tmp_path / "back/.medsam2_atlas/learning.sqlite")) as base:
        assert base.execute("SELECT study FROM measures").fetchall() == [("a",)]


@pytest.mark.parametrize("saves", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_each_snapshot_made_during_saves_restores_into_a_sound_folder(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    monkeypatch.setattr(checks, "run_task", checks.run_task)
    decode_here()
    maps = [label(tmp_path / f"{organ}.nii.gz", organ) for organ in range(1, 4)] + [label(tmp_path / "4.nrrd", 4)]
    store, stop, saved = StudyStore(folder), threading.Event(), list[int]()

    def save() -> None:
        while not stop.is_set():
            number = len(saved)
            if number % 5 == 4:
                store.restore_label("a", "final", 1 + number % 3)
            else:
                store.save_label("ab"[number % 2], "final", maps[number % 4], author=str(number))
            if number % 7 == 6:
                store.remove_label("b", "final")
            saved.append(number)

    thread = threading.Thread(target=save)
    thread.start()
    names = []
    try:
        while len(saved) < saves and thread.is_alive():
            names.append(back_up(place, tmp_path / "dest").snapshot.name)
    finally:
        stop.set()
        thread.join()
    assert len(saved) >= saves
    assert len(names) > 1
    for name in {names[0], names[len(names) // 2], names[-1]}:
        back = Place.of(str(tmp_path / name))
        assert restore(tmp_path / "dest", back, when=name).damaged == {}
        assert verify(back).findings == (), name
        opened = StudyStore(back.root)
        assert opened.problems() == {}
        found = opened.label("a", "final").version
        assert found.number == len(opened.versions("a", "final"))
        assert found.origin != "found"


def test_a_label_map_replaced_while_it_is_copied_keeps_the_version_of_the_listing(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original = StudyStore(folder), backups.list_place

    def then_saved(*args: object, **options: bool) -> object:
        listed = original(*args, **options)  # type: ignore[arg-type]
        store.save_label("a", "final", label(tmp_path / "late.nrrd", 8), author="late")
        return listed

    monkeypatch.setattr(backups, "list_place", then_saved)
    made = back_up(place, tmp_path / "dest").snapshot
    third = ".medsam2_atlas/versions/final/a/00003.nii.gz"
    assert made.entries["labels/final/a.nii.gz"].sha256 == made.entries[third].sha256
    assert not [path for path in made.entries if "00004" in path or path.endswith(".nrrd")]


def test_a_study_removed_while_it_is_copied_is_no_part_of_the_snapshot(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original, listed = StudyStore(folder), backups.list_place, []

    def then_removed(*args: object, **options: bool) -> object:
        listed.append(original(*args, **options))  # type: ignore[arg-type]
        if len(listed) == 1:
            store.remove_image("a")
        return listed[-1]

    monkeypatch.setattr(backups, "list_place", then_removed)
    made = back_up(place, tmp_path / "dest").snapshot
    assert len(listed) == 2
    assert "b.nii.gz" in made.entries
    assert all("/removed/" in path for path in made.entries if "versions/" in path)
    assert made.problems == {}


def test_a_log_that_is_renamed_while_it_is_copied_is_copied_whole(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = folder / ".medsam2_atlas/audit"
    log.mkdir()
    (log / "audit.jsonl").write_text("1\n2\n")
    original, rounds = backups.list_place, list[object]()

    def then_renamed(*args: object, **options: bool) -> object:
        rounds.append(original(*args, **options))  # type: ignore[arg-type]
        if len(rounds) == 1:
            (log / "audit.jsonl").rename(log / "audit-20261126-1.jsonl")
            (log / "audit.jsonl").write_text("3\n")
        return rounds[-1]

    monkeypatch.setattr(backups, "list_place", then_renamed)
    entries = back_up(place, tmp_path / "dest").snapshot.entries
    found = [
        Vault.existing(tmp_path / "dest").content(entries[f".medsam2_atlas/audit/{name}"].sha256).read_text()
        for name in ("audit-20261126-1.jsonl", "audit.jsonl")
    ]
    assert found == ["1\n2\n", "3\n"]


def test_a_log_to_which_lines_are_added_is_copied_in_whole_lines(place: Place, folder: Path, tmp_path: Path) -> None:
    log, stop = folder / ".medsam2_atlas/audit", threading.Event()
    log.mkdir()
    (log / "audit.jsonl").touch()

    def write() -> None:
        with (log / "audit.jsonl").open("a") as stream:
            while not stop.is_set():
                with FolderLock(log).held():
                    for part in ("begin", "x" * 2000, "end\n"):
                        stream.write(part)
                        stream.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        snapshots = [back_up(place, tmp_path / "dest").snapshot for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    vault = Vault.existing(tmp_path / "dest")
    for snapshot in snapshots:
        text = vault.content(snapshot.entries[".medsam2_atlas/audit/audit.jsonl"].sha256).read_text()
        assert text == "" or text.endswith("end\n")
        assert snapshot.problems == {}


def test_the_folder_of_other_studies_is_refused(place: Place, folder: Path, tmp_path: Path) -> None:
    dest, other = tmp_path / "dest", tmp_path / "other"
    back_up(place, dest)
    ct(other, "x")
    with pytest.raises(ConflictError, match=r"is the backup of .*studies.*--moved"):
        back_up(Place.existing(str(other)), dest)
    back_up(Place.existing(str(other)), dest, moved=True)
    with pytest.raises(ConflictError):
        back_up(place, dest)


@pytest.mark.parametrize("where", ["studies", "studies/backup", "studies/.medsam2_atlas/x", "link/x"])
def test_a_backup_inside_the_studies_is_refused(place: Place, folder: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="lies in the folder"):
        back_up(place, tmp_path / where)


def test_a_folder_that_holds_something_else_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="neither empty nor a backup"):
        back_up(place, tmp_path / "dest")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9, "key": "", "studies": ""}', "\0" * 9])
def test_a_damaged_identity_is_named(place: Place, tmp_path: Path, content: str) -> None:
    back_up(place, tmp_path / "dest")
    (tmp_path / "dest" / "backup.json").write_text(content)
    with pytest.raises(StorageError, match=r"backup\.json"):
        back_up(place, tmp_path / "dest")


def test_two_backups_at_once_do_not_write_into_one_folder(place: Place, tmp_path: Path) -> None:
    back_up(place, tmp_path / "dest")
    with Vault.existing(tmp_path / "dest").locked(), pytest.raises(ConflictError, match="in use"):
        back_up(place, tmp_path / "dest")


def test_a_full_disk_leaves_no_snapshot_and_the_next_backup_goes_on(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest, left, original = tmp_path / "dest", [5], Vault._writer

    def limited(self: Vault, target: BinaryIO) -> Callable[[bytes], None]:
        left[0] -= 1
        return original(self, target) if left[0] >= 0 else full

    def full(block: bytes) -> None:
        with Vault(dest).writes():
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "_writer", limited)
        with pytest.raises(StorageError, match=r"is full.*next backup goes on"):
            back_up(place, dest)
    there = objects(dest)
    assert len(there) == 5
    assert Vault.existing(dest).names() == []
    assert not list(dest.rglob(".part-*"))
    made = back_up(place, dest)
    assert made.added == len(objects(dest)) - len(there)
    assert verify_backup(dest).sound


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_backup_does_not_write_through_what_others_put_in_place_of_its_journal(
    place: Place, tmp_path: Path, what: str
) -> None:
    back_up(place, tmp_path / "dest")
    own, journal = tmp_path / "authorized_keys", tmp_path / "dest" / "journal.jsonl"
    own.write_text("mine\n")
    own.chmod(0o644)
    if what == "link":
        journal.symlink_to(own)
    else:
        os.mkfifo(journal)
    with time_limit(), pytest.raises(StorageError, match="cannot be written to"):
        back_up(place, tmp_path / "dest")
    assert own.read_text() == "mine\n"
    assert own.stat().st_mode & 0o777 == 0o644


def test_what_a_dead_run_has_left_is_removed(place: Place, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    kept = back_up(place, dest).snapshot.name
    for folder in (dest / "snapshots/2020-01-01T00-00-00Z/labels", dest / "snapshots/.part-abc/labels"):
        folder.mkdir(parents=True)
    (dest / "objects/.part-abc").write_bytes(b"half")
    back_up(place, dest)
    assert not (dest / "objects/.part-abc").exists()
    assert {path.name for path in (dest / "snapshots").iterdir() if path.is_dir()} == set(Vault.existing(dest).names())
    assert kept in Vault.existing(dest).names()


def test_old_snapshots_are_removed_with_the_contents_that_no_other_needs(place: Place, folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    (folder / "b.nii.gz").rename(tmp_path / "b.nii.gz")
    (folder / "c.nii.gz").write_bytes(b"soon gone")
    first = back_up(place, dest).snapshot
    gone = first.entries["c.nii.gz"].sha256
    (folder / "c.nii.gz").unlink()
    second = back_up(place, dest).snapshot
    made = back_up(place, dest, keep=2)
    assert made.removed == (first.name,)
    assert Vault.existing(dest).names() == [second.name, made.snapshot.name]
    assert gone not in objects(dest)
    assert not (dest / "snapshots" / first.name).exists()
    assert verify_backup(dest).sound


def test_no_content_is_removed_while_a_list_cannot_be_read(place: Place, folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    names = [back_up(place, dest).snapshot.name for _ in range(3)]
    before = objects(dest)
    file = dest / "snapshots" / f"{names[1]}.jsonl"
    file.write_text(file.read_text().replace("a.nii.gz", "z.nii.gz"))
    with pytest.raises(StorageError, match=names[1]):
        publishing.prune(Vault.existing(dest), 2)
    assert objects(dest) == before
    assert Vault.existing(dest).names() == names


def test_a_disk_without_hard_links_has_snapshots_too(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    made = back_up(place, tmp_path / "dest").snapshot
    assert not (tmp_path / "dest/snapshots" / made.name).exists()
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    assert verify(Place.existing(str(tmp_path / "back"))).sound


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", ".", "", "a\0b", "x" * 300])
def test_no_path_of_a_list_leads_out_of_the_restored_folder(path: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        manifest.Entry.from_json({"path": path, "size": 1, "sha256": "0" * 64, "mode": 0o600, "mtime_ns": 0})
