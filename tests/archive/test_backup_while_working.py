"""A backup that runs while people and models work contains one consistent state."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from medsam2_atlas.archive import Place, Vault, back_up, restore, verify
from medsam2_atlas.archive import backup as backups
from medsam2_atlas.storage import FolderLock, StudyStore, checks
from storage.test_store import label
from storage.writers import decode_here


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


def test_a_study_removed_while_it_is_copied_is_not_in_the_snapshot(
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


def test_a_log_that_is_renamed_while_it_is_copied_is_copied_completely(
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


def test_a_growing_log_is_copied_in_complete_lines(place: Place, folder: Path, tmp_path: Path) -> None:
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
