"""A snapshot is restored unchanged, and only into an empty place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archive.conftest import Installation
from archive.test_backup import contents, versions
from datastores.label_sender import is_sent
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.archive import Place, Vault, back_up, restore, restoring, verify, verify_backup
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import ConflictError, InputError, MedSAM2AtlasError, StorageError
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.storage import StudyStore, WorkFolder
from medsam2_atlas.studies import PredictionStore
from storage.test_store import ct, label
from waiting import time_limit


@pytest.fixture
def dest(place: Place, tmp_path: Path) -> Path:
    back_up(place, tmp_path / "dest")
    return tmp_path / "dest"


def test_everything_is_restored_and_work_can_continue(dest: Path, folder: Path, tmp_path: Path) -> None:
    back = tmp_path / "deep" / "er" / "back"
    restore(dest, Place.of(str(back)))
    assert contents(back) == contents(folder)
    assert (back / "a.nii.gz").stat().st_mtime_ns == (folder / "a.nii.gz").stat().st_mtime_ns
    assert versions(back, "a") == versions(folder, "a")
    store = StudyStore(back)
    assert store.problems() == {}
    assert store.label("a", "final").version.info == {"seconds": 3}
    assert store.save_label("a", "final", label(tmp_path / "new.nii.gz", 5), author="max").label.version.number == 4
    assert store.restore_label("a", "final", 2).label.version.number == 5


def test_an_installation_of_an_earlier_release_is_restored(installation: Installation, tmp_path: Path) -> None:
    before = StudyStore(installation.studies)
    labels, problems = before.labels(), before.problems()
    made = back_up(Place.existing(str(installation.studies)), tmp_path / "dest")
    assert made.snapshot.problems == {}
    back = tmp_path / "back"
    restore(tmp_path / "dest", Place.of(str(back)))
    store, work = StudyStore(back), WorkFolder.of(back)
    assert {(s, t): label.version for s, tags in store.labels().items() for t, label in tags.items()} == {
        (s, t): label.version for s, tags in labels.items() for t, label in tags.items() if s in store.images()
    }
    assert set(store.problems()) <= set(problems) | {"linked"}
    assert ScoreTable(back / ".medsam2_atlas/learning.sqlite").rows()
    current = (back / ".medsam2_atlas/atlas/current").read_text().strip()
    assert Atlas.load(back / ".medsam2_atlas/atlas/versions" / current).version == current
    assert PredictionStore(work, store).latest("atlas", "open") is not None


def test_the_work_folder_of_a_pacs_server_is_restored(installation: Installation, tmp_path: Path) -> None:
    place = Place.existing(installation.url)
    sent = {
        study: is_sent(tags["final"].version) for study, tags in StudyStore(place.studies).labels().items() if "final" in tags
    }
    assert set(sent.values()) == {True, False}
    made = back_up(place, tmp_path / "dest").snapshot
    assert made.pacs
    assert [path for path in made.entries if path.startswith("series/")]
    shutil.rmtree(place.root)
    restore(tmp_path / "dest", Place.of(installation.url))
    server = PacsDatastore(DicomWeb(installation.url), WorkFolder.of(installation.url).folder("."), ())
    found = {study: is_sent(tags["final"].version) for study, tags in server.store.labels().items() if "final" in tags}
    assert found == sent
    assert verify(place).sound


def test_a_pacs_server_and_a_folder_are_not_mixed_up(installation: Installation, dest: Path, tmp_path: Path) -> None:
    back_up(Place.existing(installation.url), tmp_path / "pacs")
    with pytest.raises(InputError, match=r"contains the work folder of a PACS server.*Name the server's URL"):
        restore(tmp_path / "pacs", Place.of(str(tmp_path / "back")))
    with pytest.raises(InputError, match="contains a studies folder"):
        restore(dest, Place.of("http://other.example.org/dicom-web"))
    assert not (tmp_path / "back").exists()


def test_the_password_of_a_pacs_is_not_written_into_the_backup(installation: Installation, tmp_path: Path) -> None:
    url = installation.url.replace("http://", "http://kim:secret@")
    shutil.move(Place.of(installation.url).root, Place.of(url).root)
    back_up(Place.existing(url), tmp_path / "dest")
    texts = [file.read_text() for file in (tmp_path / "dest/backup.json", *(tmp_path / "dest/snapshots").glob("*.jsonl"))]
    assert not [text for text in texts if "secret" in text]


def test_nothing_is_restored_over_existing_files(dest: Path, folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(ConflictError, match="is not empty"):
        restore(dest, Place.of(str(folder)))
    assert contents(folder) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        restore(dest, Place.of(str(tmp_path / "file")))
    with pytest.raises(InputError, match="is inside the backup"):
        restore(dest, Place.of(str(dest / "back")))


def test_an_earlier_snapshot_is_chosen_by_the_beginning_of_its_name(
    place: Place, dest: Path, folder: Path, tmp_path: Path
) -> None:
    first = Vault.existing(dest).names()[0]
    StudyStore(folder).save_label("a", "final", label(tmp_path / "new.nii.gz", 5))
    back_up(place, dest)
    restore(dest, Place.of(str(tmp_path / "old")), when=first)
    restore(dest, Place.of(str(tmp_path / "new")), when=first[:4])
    assert [len(versions(tmp_path / name, "a")) for name in ("old", "new")] == [3, 4]
    with pytest.raises(InputError, match=f"has no snapshot '1999'.*{first}"):
        restore(dest, Place.of(str(tmp_path / "none")), when="1999")


def test_a_damaged_content_is_reported_and_not_restored(
    place: Place, dest: Path, tmp_path: Path, flip: Callable[[Path], None]
) -> None:
    vault = Vault.existing(dest)
    entries = vault.snapshot().entries
    flip(vault.content(entries["a.nii.gz"].sha256))
    vault.content(entries[".medsam2_atlas/versions/final/a/00001.nii.gz"].sha256).unlink()
    made = restore(dest, Place.of(str(tmp_path / "back")))
    assert set(made.damaged) == {"a.nii.gz", "b.nii.gz", ".medsam2_atlas/versions/final/a/00001.nii.gz"}
    assert "damaged in the backup" in made.damaged["a.nii.gz"]
    assert not (tmp_path / "back/a.nii.gz").exists()
    assert (tmp_path / "back/.medsam2_atlas/versions/final/a/00002.nii.gz").exists()


@pytest.mark.parametrize("value", ["1e999", '"x"', "[]", "-1"])
def test_a_list_with_an_impossible_size_is_refused(dest: Path, tmp_path: Path, value: str) -> None:
    file = Vault(dest).list_file(Vault(dest).names()[0])
    head, line = file.read_text().splitlines()[:2]
    line = re.sub(r'"size": \d+', f'"size": {value}', line)
    about = {**json.loads(head), "files": 1, "sha256": hashlib.sha256(f"{line}\n".encode()).hexdigest()}
    file.write_text(f"{json.dumps(about)}\n{line}\n")
    with pytest.raises(StorageError, match="is not the list of a snapshot"):
        restore(dest, Place.of(str(tmp_path / "back")))


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", "labels/../../outside"])
def test_a_hostile_list_writes_nothing_outside_of_the_place(dest: Path, tmp_path: Path, path: str) -> None:
    file = Vault.existing(dest).list_file(Vault.existing(dest).names()[0])
    head, *lines = file.read_text().splitlines()
    entry = json.loads(lines[0]) | {"path": path}
    _rewrite(file, json.loads(head), [json.dumps(entry), *lines[1:]])
    with pytest.raises(StorageError, match="is not the list of a snapshot"):
        restore(dest, Place.of(str(tmp_path / "back")))
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_a_content_that_is_not_a_file_is_not_read(dest: Path, tmp_path: Path, what: str) -> None:
    vault = Vault.existing(dest)
    content = vault.content(vault.snapshot().entries["a.nii.gz"].sha256)
    content.unlink()
    if what == "pipe":
        os.mkfifo(content)
    elif what == "folder":
        content.mkdir()
    else:
        content.symlink_to("/etc/passwd")
    assert "a.nii.gz" in restore(dest, Place.of(str(tmp_path / "back"))).damaged
    assert not (tmp_path / "back/a.nii.gz").exists()


def test_a_content_that_has_grown_does_not_fill_the_disk(dest: Path, tmp_path: Path) -> None:
    entry = Vault(dest).snapshot().entries["b.nii.gz"]
    os.truncate(Vault(dest).content(entry.sha256), 1 << 40)
    with time_limit():
        (finding,) = verify_backup(dest).findings
        assert finding.problem.startswith("is damaged")
        assert "b.nii.gz" in restore(dest, Place.of(str(tmp_path / "back"))).damaged


def test_restored_folders_are_for_their_user_only(dest: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        restore(dest, Place.of(str(tmp_path / "back")))
    finally:
        os.umask(before)
    folders = [path for path in (tmp_path / "back", *(tmp_path / "back").rglob("*")) if path.is_dir()]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o700"}


def test_nothing_is_written_behind_a_link_in_the_place(dest: Path, tmp_path: Path) -> None:
    back, elsewhere = tmp_path / "back", tmp_path / "elsewhere"
    back.mkdir()
    elsewhere.mkdir()
    (back / ".restoring").symlink_to(elsewhere)
    with pytest.raises(ConflictError, match="is a symbolic link"):
        restore(dest, Place.of(str(back)))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1])
def test_a_truncated_list_is_reported(dest: Path, tmp_path: Path, cut: int) -> None:
    file = Vault.existing(dest).list_file(Vault.existing(dest).names()[0])
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(StorageError, match="snapshots DEST"):
        restore(dest, Place.of(str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


def test_a_restore_on_a_full_disk_resumes_later(
    dest: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = restoring._written, [4]

    def full(*arguments: Any) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    back = Place.of(str(tmp_path / "back"))
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "_written", full)
        with pytest.raises(StorageError, match=r"No space left.*again to resume"):
            restore(dest, back)
    assert [path.name for path in back.root.iterdir()] == [".restoring"]
    with pytest.raises(ConflictError, match="was not restored completely"):
        Place.existing(str(back.root))
    with monkeypatch.context() as patched:
        copied = []
        patched.setattr(restoring, "_written", lambda *arguments: (copied.append(1), original(*arguments))[1])
        restore(dest, back)
    assert len(copied) == 9
    assert contents(back.root) == contents(folder)


def test_a_stopped_restore_is_not_mixed_with_another_snapshot(
    place: Place, dest: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = Place.of(str(tmp_path / "back"))
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "_move_to_place", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "stop")))
        with pytest.raises(StorageError):
            restore(dest, back)
    ct(folder, "c")
    back_up(place, dest)
    with pytest.raises(ConflictError, match="another snapshot"):
        restore(dest, back)


def test_a_folder_that_is_not_a_backup_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MedSAM2AtlasError, match="is not a backup"):
            restore(path, Place.of(str(tmp_path / "back")))


def _rewrite(file: Path, head: dict[str, Any], lines: list[str]) -> None:
    import hashlib

    text = "".join(line + "\n" for line in lines)
    head["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(head) + "\n" + text)
