"""Symbolic links in a studies folder are followed only into folders that the operator names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.storage import FINAL, StudyFolder, StudyStore
from storage.test_store import ct, label, organ_in


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    ct(tmp_path / "outside", "secret")
    label(tmp_path / "outside/labels/a.nii.gz", 6)
    return tmp_path / "outside"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ct(tmp_path / "studies", "a")
    return tmp_path / "studies"


def everything(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


def test_an_image_behind_a_link_that_leads_outside_is_left_out(folder: Path, outside: Path) -> None:
    (folder / "b.nii.gz").symlink_to(outside / "secret.nii.gz")
    (folder / "c.nii.gz").symlink_to(folder / "a.nii.gz")
    store = StudyStore(folder)
    assert list(store.images()) == ["a", "c"]
    assert "--conf server_roots=FOLDER" in store.problems()["b"]["image"]
    assert str(outside) not in store.problems()["b"]["image"]
    assert [study.name for study in StudyFolder(folder).studies()] == ["a", "c"]


def test_links_into_folders_that_the_operator_names_are_followed(
    folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "b.nii.gz").symlink_to(outside / "secret.nii.gz")
    (folder / "labels").mkdir()
    (folder / "labels/final").symlink_to(outside / "labels")
    for store in (StudyStore(folder, roots=[outside]),):
        assert list(store.images()) == ["a", "b"]
        assert organ_in(store.label("a", FINAL).file) == 6
        assert store.problems() == {}
    assert [study.name for study in StudyFolder(folder, roots=[outside]).studies()] == ["a", "b"]
    monkeypatch.setenv("MEDSAM2_ATLAS_ROOTS", f"/nowhere{os.pathsep}{outside}")
    assert [study.final is not None for study in StudyFolder(folder).studies()] == [True, False]
    assert list(StudyStore(folder).images()) == ["a", "b"]


def test_stores_with_different_roots_do_not_drop_each_others_studies(
    folder: Path, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "b.nii.gz").symlink_to(outside / "secret.nii.gz")
    server, listing = StudyStore(folder, roots=[outside]), StudyStore(folder)
    server.save_label("b", FINAL, label(tmp_path / "x.nii.gz", 2), author="kim")
    for _ in range(2):
        listing.refresh(thorough=True)
        assert list(listing.images()) == ["a"]
        assert server._index.image("b") is not None
        assert server._index.label("b", FINAL) is not None
        assert list(server.images()) == ["a", "b"]
    listing.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6), author="lee")
    assert server.label("a", FINAL).version == listing.label("a", FINAL).version
    assert len(server.versions("a", FINAL)) == 1
    assert listing.index_file == folder / ".medsam2_atlas/studies.sqlite"
    monkeypatch.setenv("MEDSAM2_ATLAS_ROOTS", str(outside))
    assert StudyStore(folder).index_file == server.index_file
    assert StudyStore(folder, roots=[folder / "..", outside]).index_file not in (server.index_file, listing.index_file)


@pytest.mark.parametrize("which", ["tag", "labels", "file"])
def test_nothing_is_read_written_or_removed_through_a_link_that_leads_outside(
    folder: Path, outside: Path, tmp_path: Path, which: str
) -> None:
    if which == "file":
        (folder / "labels/final").mkdir(parents=True)
        (folder / "labels/final/a.nii.gz").symlink_to(outside / "labels/a.nii.gz")
    elif which == "tag":
        (folder / "labels").mkdir()
        (folder / "labels/final").symlink_to(outside / "labels")
    else:
        (outside / "final").symlink_to(outside / "labels")
        (folder / "labels").symlink_to(outside)
    before = everything(outside)
    store = StudyStore(folder)
    assert store.labels() == {}
    assert "server_roots" in str(store.problems())
    new = label(tmp_path / "x.nii.gz", 2)
    if which == "file":
        assert organ_in(store.save_label("a", FINAL, new).label.file) == 2
        assert not (folder / "labels/final/a.nii.gz").is_symlink()
    else:
        with pytest.raises(StorageError, match="server_roots"):
            store.save_label("a", FINAL, new)
    store.refresh(thorough=True)
    assert everything(outside) == before


def test_a_label_that_is_replaced_by_a_link_to_the_outside_is_served_from_its_version(
    folder: Path, outside: Path, tmp_path: Path
) -> None:
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2), author="kim")
    current = folder / "labels/final/a.nii.gz"
    current.unlink()
    current.symlink_to(outside / "labels/a.nii.gz")
    found = store.label("a", FINAL)
    assert organ_in(found.file) == 2
    assert "server_roots" in found.problem
    assert [version.origin for version in store.versions("a", FINAL)] == ["person"]


@pytest.mark.parametrize("which", [".medsam2_atlas", ".medsam2_atlas/versions", ".medsam2_atlas/images"])
def test_nothing_is_stored_behind_a_link_that_leads_outside(folder: Path, outside: Path, tmp_path: Path, which: str) -> None:
    (outside / "work").mkdir()
    (folder / which).parent.mkdir(exist_ok=True)
    (folder / which).symlink_to(outside / "work")
    before = everything(outside)
    with pytest.raises(StorageError, match="server_roots"):
        store = StudyStore(folder)
        store.update_image_info("a", {"n": 1})
        store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2))
    assert everything(outside) == before
    StudyStore(folder, roots=[outside]).save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2))


def test_a_removed_image_that_was_a_link_can_still_be_read(folder: Path) -> None:
    (folder / "b.nii.gz").symlink_to("a.nii.gz")
    aside = StudyStore(folder).remove_image("b")
    assert (aside / "b.nii.gz").read_bytes() == (folder / "a.nii.gz").read_bytes()
