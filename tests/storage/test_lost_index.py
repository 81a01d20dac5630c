"""The index may be removed or damaged while it is in use."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from medsam2_atlas.storage import FINAL, StudyStore
from storage.test_store import ct, label, organ_in

STUDIES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(STUDIES):
        ct(tmp_path / "studies", f"case-{n}")
        label(tmp_path / "studies/labels/final" / f"case-{n}.nii.gz", n + 1)
    return tmp_path / "studies"


def spoil(folder: Path, how: str) -> None:
    file = folder / ".medsam2_atlas" / "studies.sqlite"
    if how == "removed":
        for part in file.parent.glob("studies.sqlite*"):
            part.unlink(missing_ok=True)
    elif how == "replaced":
        (file.parent / "other").write_bytes(b"garbage" * 1000)
        (file.parent / "other").replace(file)
    elif how == "overwritten":
        with file.open("r+b") as stream:
            stream.write(b"garbage" * 1000)
    elif how == "cut":
        with file.open("r+b") as stream:
            stream.truncate(5000)
    elif how == "emptied":
        with file.open("r+b") as stream:
            stream.truncate(0)
    elif how == "of an older release":
        file.unlink(missing_ok=True)
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE images (study TEXT PRIMARY KEY, file TEXT NOT NULL, info TEXT NOT NULL)")
        database.close()


WAYS = ["removed", "replaced", "overwritten", "cut", "emptied", "of an older release"]


@pytest.mark.parametrize("how", WAYS)
def test_a_lost_index_is_rebuilt_before_the_next_answer(folder: Path, tmp_path: Path, how: str) -> None:
    store = StudyStore(folder)
    labels, images = store.labels(), store.images()
    for ask in (store.counts, store.labels, store.images, lambda: store.label("case-1", FINAL), store.problems):
        before = ask()
        spoil(folder, how)
        assert ask() == before
    spoil(folder, how)
    saved = store.save_label("case-1", FINAL, label(tmp_path / "x.nii.gz", 9), author="kim")
    assert saved.label.version.number == 2
    spoil(folder, how)
    store.remove_label("case-2", FINAL)
    spoil(folder, how)
    store.update_label_info("case-1", FINAL, {"n": 1})
    spoil(folder, how)
    store.remove_image("case-3")
    for found in (store, StudyStore(folder)):
        assert set(found.images()) == set(images) - {"case-3"}
        assert set(found.labels()) == set(labels) - {"case-2", "case-3"}
        assert found.label("case-1", FINAL).version.info == {"n": 1}


@pytest.mark.parametrize("how", WAYS[:-1])
def test_a_lost_index_never_causes_an_empty_folder_or_an_error(folder: Path, tmp_path: Path, how: str) -> None:
    store, new = StudyStore(folder), label(tmp_path / "x.nii.gz", 9)
    wrong: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                found = (store.counts(), len(store.images()), len(store.labels()))
                if found != ((STUDIES, {FINAL: STUDIES}), STUDIES, STUDIES):
                    wrong.append(found)
            except Exception as error:  # noqa: BLE001 - the test looks for any error
                wrong.append(error)

    def save() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                store.save_label("case-0", FINAL, new, author=str(number))
            except Exception as error:  # noqa: BLE001 - the test looks for any error
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=save)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError):  # the store is just moving the damaged index away
                spoil(folder, how)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert organ_in(store.label("case-0", FINAL).file) == 9
    assert store.label("case-0", FINAL).version == store.versions("case-0", FINAL)[-1]


def test_two_stores_of_one_folder_agree_after_the_index_was_lost(folder: Path, tmp_path: Path) -> None:
    first, second = StudyStore(folder), StudyStore(folder)
    for n in range(4):
        spoil(folder, "removed")
        first.save_label("case-0", FINAL, label(tmp_path / "x.nii.gz", n + 2), author="first")
        assert second.label("case-0", FINAL).version.number == 2 * n + 2
        second.save_label("case-0", FINAL, label(tmp_path / "x.nii.gz", n + 3), author="second")
        assert first.labels()["case-0"][FINAL].version.number == 2 * n + 3
