"""A bad label or image does not affect the other studies of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.storage import FINAL, StudyFolder, StudyStore, settle
from storage.test_store import ct, label, organ_in

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        ct(tmp_path / "studies", name)
    label(tmp_path / "studies/labels/final/b.nii.gz", 6)
    return tmp_path / "studies"


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Runs the block as a user who owns the folder and is not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for part in [*folder.parents][: len(folder.parents) - 1]:
        if part.stat().st_uid == 0 and str(part).startswith("/tmp/"):
            part.chmod(part.stat().st_mode | 0o111)
    for file in [folder, *folder.rglob("*")]:
        if file.stat().st_mode & 0o077:
            os.chown(file, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_label_of_another_owner_does_not_stop_the_folder(folder: Path) -> None:
    secret = label(folder / "labels/final/a.nii.gz", 2)
    secret.chmod(0o600)
    with as_nobody(folder):
        store = StudyStore(folder)
        assert list(store.labels()) == ["b"]
        assert "Permission denied" in store.problems()["a"][FINAL]
        assert store.counts() == (3, {"final": 1})
    secret.chmod(0o644)
    os.chown(secret, NOBODY, NOBODY)
    with as_nobody(folder):
        store.refresh()
        assert organ_in(store.label("a", FINAL).file) == 2
        assert store.problems() == {}


def test_a_label_that_becomes_unreadable_is_served_from_its_version_and_does_not_count(folder: Path, tmp_path: Path) -> None:
    StudyStore(folder).save_label("a", FINAL, label(tmp_path / "x.nii.gz", 3), author="kim")
    current = folder / "labels/final/a.nii.gz"
    current.chmod(0o600)
    with as_nobody(folder):
        store = StudyStore(folder)
        found = store.labels()["a"][FINAL]
        assert organ_in(found.file) == 3
        assert found.file != current
        assert "Permission denied" in found.problem
        assert store.counts() == (3, {"final": 1})
        assert [version.origin for version in store.versions("a", FINAL)] == ["person"]
    current.chmod(0o644)
    assert StudyStore(folder).label("a", FINAL).problem == ""


def test_saving_over_a_label_that_cannot_be_read_keeps_it(folder: Path, tmp_path: Path) -> None:
    secret = label(folder / "labels/final/a.nii.gz", 2)
    secret.chmod(0o600)
    content, new = secret.read_bytes(), label(tmp_path / "x.nii.gz", 3)
    with as_nobody(folder):
        store = StudyStore(folder)
        saved = store.save_label("a", FINAL, new, author="kim")
        assert organ_in(saved.label.file) == 3
        assert store.problems() == {}
    assert [file.read_bytes() for file in (folder / ".medsam2_atlas/unreadable/a").iterdir()] == [content]


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_names_of_any_length_that_the_disk_allows_do_not_stop_the_folder(folder: Path, tmp_path: Path, suffix: str) -> None:
    image = (folder / "a.nii.gz").read_bytes()
    for length in (234, 248):
        (folder / ("x" * length + ".nii.gz")).write_bytes(image)
        label(folder / f"labels/final/{'x' * length}.nii.gz", 6)
    (folder / ("y" * 251 + ".mha")).write_bytes(b"")
    label(folder / f"labels/other/{'z' * 250}{'.mha'}", 6)
    store = StudyStore(folder)
    assert {len(study) for study in store.labels()} == {1, 234, 248}
    saved = store.save_label("x" * 248, FINAL, label(tmp_path / f"new{suffix}", 2))
    assert organ_in(saved.label.file) == 2
    assert organ_in(store.version_file("x" * 248, FINAL, 1)) == 6
    assert "more than 248 bytes" in store.problems()["y" * 251]["image"]
    assert "y" * 251 not in store.images()
    store.update_image_info("x" * 248, {"note": 1})
    assert StudyStore(folder).image("x" * 248).info == {"note": 1}


def test_unusable_entries_stop_neither_the_store_nor_the_command_line(folder: Path) -> None:
    (folder / "dangling.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    (folder / "loop.nii.gz").symlink_to(folder / "loop.nii.gz")
    (folder / "folder.nii.gz").mkdir()
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / os.fsdecode(b"\xff.nii.gz")).write_bytes(b"x")
    (folder / "labels/final/c.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    (folder / "labels/final/empty.nii.gz").write_bytes(b"")
    store = StudyStore(folder)
    assert list(store.images()) == ["a", "b", "c"]
    assert set(store.problems()) == {"dangling", "loop", "\\xff", "c"}
    assert [(study.name, study.final is not None) for study in StudyFolder(folder).studies()] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]


def test_files_that_cannot_be_accessed_do_not_stop_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(folder / "labels/final/a.nii.gz", 2)
    scan = os.scandir

    class Broken:
        """An entry on a disk that has been disconnected."""

        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def is_symlink(self) -> bool:
            return False

        def is_dir(self) -> bool:
            return self._entry.is_dir()

        def stat(self) -> os.stat_result:
            if self.name.startswith("a."):
                raise OSError(116, "Stale file handle")
            return self._entry.stat()

    class Scanned:
        """The entries of a folder on that disk."""

        def __init__(self, path: str) -> None:
            self._entries = [Broken(entry) for entry in scan(path)]

        def __enter__(self) -> Iterator[Broken]:
            return iter(self._entries)

        def __iter__(self) -> Iterator[Broken]:
            return iter(self._entries)

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(os, "scandir", Scanned)
    assert list(StudyStore(folder).images()) == ["b", "c"]
    assert [study.name for study in StudyFolder(folder).studies()] == ["b", "c"]


def test_a_tag_that_cannot_be_listed_loses_no_label(folder: Path, tmp_path: Path) -> None:
    StudyStore(folder).save_label("a", FINAL, label(tmp_path / "x.nii.gz", 3), author="kim")
    StudyStore(folder).save_label("a", "other", label(tmp_path / "x.nii.gz", 4), author="kim")
    tag = folder / "labels/final"
    tag.chmod(0o700)
    with as_nobody(folder):
        store = StudyStore(folder)
        assert organ_in(store.label("a", "other").file) == 4
        assert store.label("a", "other").problem == ""
        assert "Permission denied" in store.label("a", FINAL).problem
        assert "Permission denied" in store.problems()["labels/final"][FINAL]
        assert [version.origin for version in store.versions("a", FINAL)] == ["person"]
    tag.chmod(0o755)
    store = StudyStore(folder)
    assert store.label("a", FINAL).problem == ""
    assert store.problems() == {}


def test_a_label_that_causes_any_error_does_not_affect_other_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(folder / "labels/final/a.nii.gz", 2)
    original = settle.quick_look

    def look(file: Path) -> str:
        if file.name.startswith("a."):
            raise ZeroDivisionError("an unexpected error")
        return original(file)

    monkeypatch.setattr(settle, "quick_look", look)
    store = StudyStore(folder)
    assert organ_in(store.label("b", FINAL).file) == 6
    assert "an unexpected error" in store.problems()["a"][FINAL]


def test_an_unreadable_record_hides_no_other_version(folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    for organ in (2, 3):
        store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", organ))
    (folder / ".medsam2_atlas/versions/final/a/00001.json").write_text("[]")
    assert organ_in(store.version_file("a", FINAL, 2)) == 3
    with pytest.raises(StorageError, match="not a readable record"):
        store.version_file("a", FINAL, 1)
    with pytest.raises(NotFoundError):
        store.version_file("a", FINAL, 7)


def test_a_folder_of_another_user_is_refused_with_a_clear_message(folder: Path) -> None:
    StudyStore(folder).work.path.chmod(0o700)
    with as_nobody(folder), pytest.raises(StorageError, match="belongs to another user"):
        StudyStore(folder)
