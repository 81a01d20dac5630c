"""Signed-off label maps never change unnoticed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medsam2_atlas.base.errors import ConfirmError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.decoding import UnreadableFileError
from medsam2_atlas.storage import FINAL, StudyStore, previous, settle
from medsam2_atlas.storage.checks import CheckedLabel
from storage.test_store import SHAPE, label, organ_in, sweep_at_once, write


@pytest.fixture
def store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    sweep_at_once(monkeypatch)
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.mha", 6), author="kim")
    return store


def overwrite(file: Path) -> bytes:
    """Overwrites a file in place, keeping its size and modification time; returns the new content."""
    before, content = file.stat(), bytearray(file.read_bytes())
    time.sleep(0.02)
    content[-1] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return bytes(content)


@pytest.mark.parametrize("ask", ["label", "labels", "counts"])
def test_a_file_that_is_overwritten_in_place_is_never_served_under_the_old_checksum(
    store: StudyStore, folder: Path, ask: str
) -> None:
    content = overwrite(folder / "labels/final/a.mha")
    if ask == "label":
        found = store.label("a", FINAL)
    elif ask == "labels":
        found = store.labels()["a"][FINAL]
    else:
        store.counts()
        found = store._label(store._index.labels()["a", FINAL])
    assert (found.version.number, found.version.origin, found.version.author) == (2, "found", "")
    assert found.version.sha256 == sha256(found.file)
    assert found.file.read_bytes() == content
    assert organ_in(store.version_file("a", FINAL, 1)) == 6


def test_a_version_that_was_changed_on_the_disk_is_neither_served_nor_restored(store: StudyStore) -> None:
    overwrite(store.version_file("a", FINAL, 1))
    with pytest.raises(StorageError, match="changed since it was saved"):
        store.version_file("a", FINAL, 1)
    with pytest.raises(StorageError, match="changed since it was saved"):
        store.restore_label("a", FINAL, 1)


def test_a_version_records_the_checksum_of_its_image_and_its_organs(store: StudyStore, folder: Path) -> None:
    version = StudyStore(folder).versions("a", FINAL)[0]
    assert version.image_sha256 == sha256(folder / "a.nii.gz")
    assert version.organs == (6,)


def test_labels_of_a_replaced_image_do_not_count_until_the_image_is_restored(
    store: StudyStore, folder: Path, tmp_path: Path
) -> None:
    image = folder / "a.nii.gz"
    kept = image.read_bytes()
    write(image, np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
    assert "another image" in store.label("a", FINAL).problem
    assert "another image" in store.labels()["a"][FINAL].problem
    assert "another image" in store.problems()["a"][FINAL]
    assert store.counts() == (2, {})
    image.write_bytes(kept)
    assert store.label("a", FINAL).problem == ""
    assert store.counts() == (2, {FINAL: 1})
    write(image, np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
    store.save_label("a", FINAL, label(tmp_path / "x.mha", 6), author="kim")
    assert store.label("a", FINAL).problem == ""
    assert store.label("a", FINAL).version.number == 2


def test_an_image_that_was_replaced_while_the_server_was_down_is_found(store: StudyStore, folder: Path) -> None:
    write(folder / "a.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
    (folder / ".medsam2_atlas/studies.sqlite").unlink()
    again = StudyStore(folder)
    again.audit()
    assert "another image" in again.label("a", FINAL).problem


def test_found_labels_are_checked_later_and_bad_ones_do_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_at_once(monkeypatch)
    label(folder / "labels/final/a.nii.gz", 6)
    label(folder / "labels/final/b.nii.gz", 99)
    store = StudyStore(folder)
    assert store.counts() == (2, {FINAL: 2})
    assert store.label("a", FINAL).version.organs is None
    stopped = threading.Event()
    stopped.set()
    assert store.audit(stopped) == 0
    assert store.audit() == 2
    assert store.audit() == 0
    good = store.label("a", FINAL)
    assert (good.problem, good.version.organs, good.version.image_sha256) == ("", (6,), sha256(folder / "a.nii.gz"))
    assert "99" in store.label("b", FINAL).problem
    assert store.counts() == (2, {FINAL: 1})
    assert StudyStore(folder).versions("a", FINAL)[0].organs == (6,)
    label(folder / "labels/final/b.nii.gz", 6)
    store.audit()
    assert store.counts() == (2, {FINAL: 2})


def test_garbage_put_into_the_folder_is_kept_but_does_not_count(folder: Path) -> None:
    (folder / "labels/final").mkdir(parents=True)
    (folder / "labels/final/a.nii.gz").write_bytes(b"not a label")
    store = StudyStore(folder)
    assert "is not a .gz file" in store.label("a", FINAL).problem
    assert store.counts() == (2, {})


def test_records_of_earlier_releases_stay_readable(store: StudyStore, folder: Path) -> None:
    record = folder / ".medsam2_atlas/versions/final/a/00001.json"
    text = record.read_text()
    start = text.index(',\n "image_sha256"')
    record.write_text(text[:start] + "\n}")
    (folder / ".medsam2_atlas/studies.sqlite").unlink()
    again = StudyStore(folder)
    assert (again.label("a", FINAL).version.author, again.label("a", FINAL).version.organs) == ("kim", None)
    assert again.audit() == 1
    assert again.label("a", FINAL).version.organs == (6,)


def test_empty_label_maps_and_lost_organs_need_confirmation(store: StudyStore, tmp_path: Path) -> None:
    empty, other = label(tmp_path / "empty.mha", 0), label(tmp_path / "other.mha", 2)
    for file in (empty, other):
        with pytest.raises(ConfirmError) as raised:
            store.save_label("a", FINAL, file, author="kim", confirmed=False)
        assert raised.value.organs == ("liver",)
        assert raised.value.digest
    with pytest.raises(ConfirmError):
        store.save_label("b", FINAL, empty, confirmed=False)
    assert [version.number for version in store.versions("a", FINAL)] == [1]
    assert store.save_label("b", "draft", empty, confirmed=False).label.version.number == 1
    assert store.save_label("a", FINAL, empty, confirmed=True).label.version.number == 2
    assert store.save_label("a", FINAL, other, confirmed=False).label.version.number == 3


def test_the_organs_of_a_found_label_are_read_from_its_file(folder: Path, tmp_path: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    (folder / "labels/final/b.nii.gz").write_bytes(b"\x1f\x8b garbage")
    store = StudyStore(folder)
    with pytest.raises(ConfirmError, match="liver"):
        store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2), confirmed=False)


@pytest.mark.parametrize("why", ["garbage", "reader died", "no rights", "another grid"])
def test_replacing_a_label_that_cannot_be_checked_needs_confirmation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    file = label(folder / "labels/final/a.nii.gz", 6)
    if why == "garbage":
        file.write_bytes(b"\x1f\x8b garbage")
    elif why == "another grid":
        label(file, 6, spacing=3.0)
    elif why == "no rights":
        monkeypatch.setattr(settle, "sha256", lambda _: os.open(tmp_path / "missing", os.O_RDONLY))
    store = StudyStore(folder)
    if why == "reader died":

        def die(*_: Path) -> CheckedLabel:
            raise UnreadableFileError("a.nii.gz", "made its reader run out of memory.")

        monkeypatch.setattr(previous, "inspect_label", die)
    new, empty = label(tmp_path / "x.nii.gz", 2), label(tmp_path / "empty.nii.gz", 0)
    for sent in (new, empty):
        with pytest.raises(ConfirmError, match="the previous version cannot be checked") as raised:
            store.save_label("a", FINAL, sent, confirmed=False)
        assert raised.value.organs == ()
        assert raised.value.digest
    monkeypatch.undo()
    assert organ_in(store.save_label("a", FINAL, new, confirmed=True).label.file) == 2


@pytest.mark.parametrize("audited", [False, True])
def test_losing_numbers_outside_of_the_organ_table_needs_confirmation(folder: Path, tmp_path: Path, audited: bool) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 1:4, 1:4], array[1, 1, 1] = 6, 99
    write(folder / "labels/final/a.nii.gz", array)
    store = StudyStore(folder)
    if audited:
        store.audit()
    with pytest.raises(ConfirmError) as raised:
        store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2), confirmed=False)
    assert raised.value.organs == ("liver", "99")


def test_the_previous_version_is_checked_without_the_lock_and_again_if_it_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    store, other, checked = StudyStore(folder), StudyStore(folder), []
    look = previous.inspect_label

    def meanwhile(file: Path, image: Path) -> CheckedLabel:
        found = look(file, image)
        if not checked:  # the save would wait for a minute if this thread held the lock
            thread = threading.Thread(target=other.save_label, args=("a", FINAL, label(tmp_path / "y.nii.gz", 5)))
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
        checked.append(found.organs)
        return found

    monkeypatch.setattr(previous, "inspect_label", meanwhile)
    with pytest.raises(ConfirmError) as raised:
        store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6), confirmed=False)
    assert checked == [(6,)]
    assert raised.value.organs == ("esophagus",)
