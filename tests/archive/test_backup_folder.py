"""The folder of a backup: which folders are refused, what is removed, and what remains on a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from archive.test_backup import objects
from medsam2_atlas.archive import Place, Vault, back_up, manifest, publishing, restore, verify, verify_backup
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from storage.test_store import ct
from waiting import time_limit


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
    with pytest.raises(InputError, match="is inside the folder"):
        back_up(place, tmp_path / where)


def test_a_folder_that_contains_other_files_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="neither empty nor a backup"):
        back_up(place, tmp_path / "dest")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9, "key": "", "studies": ""}', "\0" * 9])
def test_a_damaged_identity_file_is_reported(place: Place, tmp_path: Path, content: str) -> None:
    back_up(place, tmp_path / "dest")
    (tmp_path / "dest" / "backup.json").write_text(content)
    with pytest.raises(StorageError, match=r"backup\.json"):
        back_up(place, tmp_path / "dest")


def test_two_backups_at_once_do_not_write_into_one_folder(place: Place, tmp_path: Path) -> None:
    back_up(place, tmp_path / "dest")
    with Vault.existing(tmp_path / "dest").locked(), pytest.raises(ConflictError, match="in use"):
        back_up(place, tmp_path / "dest")


def test_a_full_disk_leaves_no_snapshot_and_the_next_backup_resumes(
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
        with pytest.raises(StorageError, match=r"is full.*next backup resumes"):
            back_up(place, dest)
    copied = objects(dest)
    assert len(copied) == 5
    assert Vault.existing(dest).names() == []
    assert not list(dest.rglob(".part-*"))
    made = back_up(place, dest)
    assert made.added == len(objects(dest)) - len(copied)
    assert verify_backup(dest).sound


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_backup_does_not_write_through_a_file_that_replaces_its_journal(place: Place, tmp_path: Path, what: str) -> None:
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


def test_the_remains_of_a_crashed_backup_are_removed(place: Place, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    kept = back_up(place, dest).snapshot.name
    for folder in (dest / "snapshots/2020-01-01T00-00-00Z/labels", dest / "snapshots/.part-abc/labels"):
        folder.mkdir(parents=True)
    (dest / "objects/.part-abc").write_bytes(b"half")
    back_up(place, dest)
    assert not (dest / "objects/.part-abc").exists()
    assert {path.name for path in (dest / "snapshots").iterdir() if path.is_dir()} == set(Vault.existing(dest).names())
    assert kept in Vault.existing(dest).names()


def test_old_snapshots_are_removed_with_their_unneeded_contents(place: Place, folder: Path, tmp_path: Path) -> None:
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
