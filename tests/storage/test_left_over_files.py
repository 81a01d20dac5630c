"""Label files of earlier versions that the store could not replace or remove do not become new versions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medsam2_atlas.storage import FINAL, StudyStore, changes, reconcile, scan, settle
from storage.test_store import ct, label, organ_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_SWEEP_SECONDS", "_SWEEP_REST", "_RETRY_SECONDS"):
        monkeypatch.setattr(reconcile, name, 0.0)
    ct(tmp_path / "studies", "a")
    return tmp_path / "studies"


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def state(store: StudyStore) -> tuple[list[int], int, int]:
    """Returns the numbers of all versions, and the number and organ of the current one."""
    now = store.label("a", FINAL)
    return [version.number for version in store.versions("a", FINAL)], now.version.number, organ_in(now.file)


def test_a_superseded_file_that_cannot_be_removed_does_not_become_a_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    store = StudyStore(folder)
    label(folder / "labels/final/a.nrrd", 2)
    with monkeypatch.context() as locked:
        locked.setattr(Path, "unlink", refuse)
        for _ in range(3):
            store.refresh()
            assert state(store) == ([1, 2], 2, 2)
            assert "superseded file" in store.problems()["a"][FINAL]
    store.refresh()
    assert [file.name for file in (folder / "labels/final").iterdir()] == ["a.nrrd"]
    assert store.problems() == {}


def test_a_saved_label_that_cannot_be_copied_to_its_tag_is_not_replaced_by_the_previous_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6), author="kim")
    with monkeypatch.context() as locked:
        rename = os.replace
        locked.setattr(changes.os, "replace", lambda old, new: refuse() if "labels/final" in str(new) else rename(old, new))
        locked.setattr(settle, "copy_safely", refuse)
        assert store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 2), author="lee").label.version.number == 2
        for _ in range(3):
            store.refresh()
            assert state(store) == ([1, 2], 2, 2)
            assert "could not be updated" in store.problems()["a"][FINAL]
    store.refresh()
    assert state(store) == ([1, 2], 2, 2)
    assert organ_in(folder / "labels/final/a.nii.gz") == 2


def test_an_earlier_version_that_a_person_puts_back_becomes_a_version(folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.nrrd", 6))
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 2))
    shutil.copy2(tmp_path / "x.nrrd", folder / "labels/final/a.nrrd")
    store.refresh()
    assert state(store) == ([1, 2, 3], 3, 6)


def test_a_disk_that_ignores_case_loses_no_label(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = folder / "labels/final"

    def by_any_case(file: Path) -> Path:
        entries = final.iterdir() if file.parent == final and final.is_dir() else ()
        return next((entry for entry in entries if entry.name.lower() == file.name.lower()), file)

    for name in ("is_file", "unlink", "lstat", "is_symlink"):
        plain = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda file, plain=plain, **more: plain(by_any_case(file), **more))
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6))
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 2))
    store.refresh()
    assert state(store) == ([1, 2], 2, 2)
    assert [file.name for file in scan.label_files(folder, store._roots, "a", FINAL)] == ["a.nii.gz"]
