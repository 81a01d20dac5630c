"""A studies folder keeps every version of every label map."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.datastore.local import LocalDatastore

from medsam2_atlas.base.errors import ConflictError, InputError, NotFoundError, StorageError
from medsam2_atlas.storage import StudyStore, images, reconcile
from medsam2_atlas.storage.fingerprints import same_image

SHAPE = (6, 8, 10)


def write(file: Path, array: np.ndarray, spacing: float = 2.0) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing,) * 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))
    return file


def sweep_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every query compare the stamps of all files, instead of once every few seconds."""
    monkeypatch.setattr(reconcile, "_SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(reconcile, "_SWEEP_REST", 0.0)


def ct(folder: Path, name: str) -> Path:
    return write(folder / f"{name}.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE))


def label(file: Path, organ: int, shape: tuple[int, ...] = SHAPE, spacing: float = 2.0) -> Path:
    array = np.zeros(shape, np.uint8)
    array[1:4, 1:4, 1:4] = organ
    return write(file, array, spacing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b.1", "b.2", "Ärztin 7 (copy)"):
        ct(tmp_path / "studies", name)
    return tmp_path / "studies"


@pytest.fixture
def store(folder: Path) -> StudyStore:
    return StudyStore(folder)


def organ_in(file: Path) -> int:
    return int(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).max())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and "sqlite" not in f.name}


def test_studies_are_found_by_their_whole_names(store: StudyStore) -> None:
    assert list(store.images()) == ["a", "b.1", "b.2", "Ärztin 7 (copy)"]
    with pytest.raises(NotFoundError, match="not a study"):
        store.image("../a")


def test_all_versions_of_a_label_are_kept(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    first = store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6), author="kim", info={"seconds": 90})
    second = store.save_label("a", "final", label(tmp_path / "y.nrrd", 2), author="lee")
    assert first.replaced is None
    assert second.replaced is not None
    assert (second.replaced.author, second.replaced.info) == ("kim", {"seconds": 90})
    assert organ_in(folder / "labels/final/a.nrrd") == 2
    assert not (folder / "labels/final/a.nii.gz").exists()
    assert [(v.number, v.author, v.origin) for v in store.versions("a", "final")] == [
        (1, "kim", "person"),
        (2, "lee", "person"),
    ]
    assert organ_in(store.version_file("a", "final", 1)) == 6
    restored = store.restore_label("a", "final", 1, author="kim")
    assert restored.label.version.number == 3
    assert restored.label.version.info["restored_from"] == 1
    assert organ_in(folder / "labels/final/a.nii.gz") == 6
    with pytest.raises(NotFoundError, match="no version 9"):
        store.restore_label("a", "final", 9)


def test_a_label_that_is_sent_twice_is_one_version(store: StudyStore, tmp_path: Path) -> None:
    file = label(tmp_path / "x.nii.gz", 6)
    store.save_label("a", "final", file, author="kim")
    assert store.save_label("a", "final", file, author="kim").label.version.number == 1
    assert store.save_label("a", "final", file, author="lee").label.version.number == 2  # another author makes a new version


def test_the_same_label_from_another_person_of_that_name_is_a_new_version(store: StudyStore, tmp_path: Path) -> None:
    file = label(tmp_path / "x.nii.gz", 6)
    store.save_label("a", "final", file, author="kim")  # without an id, as in earlier releases
    assert store.save_label("a", "final", file, author="kim", author_id="token:kim").label.version.number == 1
    assert store.save_label("a", "final", file, author="lee", author_id="token:lee").label.version.number == 2
    assert store.save_label("a", "final", file, author="lee", author_id="oidc:x#7").label.version.author_id == "oidc:x#7"
    assert store.restore_label("a", "final", 1, author="lee", author_id="oidc:x#7").label.version.author_id == "oidc:x#7"
    store.remove_label("a", "final", author="lee", author_id="token:lee")
    assert [version.author_id for version in store.versions("a", "final")][1:] == [
        "token:lee",
        "oidc:x#7",
        "oidc:x#7",
        "token:lee",
    ]


def test_a_removed_label_can_be_restored(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    store.remove_label("a", "final", author="kim")
    assert store.labels() == {}
    assert not (folder / "labels/final/a.nii.gz").exists()
    assert StudyStore(folder).labels() == {}
    with pytest.raises(NotFoundError):
        store.label("a", "final")
    store.restore_label("a", "final", 1)
    assert organ_in(store.label("a", "final").file) == 6
    assert [v.origin for v in store.versions("a", "final")] == ["person", "removed", "restored"]


def test_two_annotators_of_one_case_cannot_overwrite_each_other_unseen(store: StudyStore, tmp_path: Path) -> None:
    six, two = label(tmp_path / "x.nii.gz", 6), label(tmp_path / "y.nii.gz", 2)
    store.save_label("a", "final", six, author="kim", expected_version=0)
    with pytest.raises(ConflictError, match="version 1 by kim"):
        store.save_label("a", "final", two, author="lee", expected_version=0)
    assert organ_in(store.label("a", "final").file) == 6
    store.save_label("a", "final", two, author="lee", expected_version=1)
    assert organ_in(store.label("a", "final").file) == 2


def test_a_model_never_replaces_a_persons_label(store: StudyStore, tmp_path: Path) -> None:
    file, other = label(tmp_path / "x.nii.gz", 6), label(tmp_path / "y.nii.gz", 2)
    with pytest.raises(ConflictError, match="signed off by a person"):
        store.save_prediction("a", "final", file)
    store.save_label("a", "original", file)
    with pytest.raises(ConflictError, match="person's label"):
        store.save_prediction("a", "original", other)
    assert store.save_prediction("a", "unet_3d", file).label.version.number == 1
    assert store.save_prediction("a", "unet_3d", other).label.version.number == 2


@pytest.mark.parametrize("tag", ["", "..", "../../x", "a/b", "a\\b", ".hidden", "x" * 65, "a b", "ü", "a\n"])
def test_tags_that_lead_to_another_folder_are_refused(store: StudyStore, folder: Path, tmp_path: Path, tag: str) -> None:
    before = everything(tmp_path)
    with pytest.raises(InputError, match="cannot be a label tag"):
        store.save_label("a", tag, folder / "a.nii.gz")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc/x", "a\\b", ".x", "x" * 200, " x", "a\0b", "\ud800"])
def test_study_names_that_lead_to_another_folder_are_refused(
    store: StudyStore, folder: Path, tmp_path: Path, name: str
) -> None:
    before = everything(tmp_path)
    with pytest.raises(InputError, match="cannot name a study"):
        store.add_image(name, folder / "a.nii.gz")
    with pytest.raises(NotFoundError):
        store.save_label(name, "final", folder / "a.nii.gz")
    assert everything(tmp_path) == before


def test_invalid_labels_are_refused(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    good = label(tmp_path / "x.nii.gz", 6)
    before = everything(folder)
    (tmp_path / "garbage.nii.gz").write_bytes(b"not a label")
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-30])
    with pytest.raises(InputError, match="broken gzip file"):
        store.save_label("a", "final", tmp_path / "garbage.nii.gz")
    with pytest.raises(InputError, match="cut off"):
        store.save_label("a", "final", tmp_path / "cut.nii.gz")
    with pytest.raises(InputError, match="unsupported type"):
        store.save_label("a", "final", write(tmp_path / "x.vtk", np.zeros(SHAPE, np.uint8)))
    with pytest.raises(InputError, match=r"has a different grid from .*: 10 x 8 x 5 voxels instead of 10 x 8 x 6"):
        store.save_label("a", "final", label(tmp_path / "small.nii.gz", 6, (5, 8, 10)))
    with pytest.raises(InputError, match="has a different grid from"):
        store.save_label("a", "final", label(tmp_path / "wide.nii.gz", 6, spacing=3.0))
    with pytest.raises(InputError, match=r"contains values \[99\]"):
        store.save_label("a", "final", label(tmp_path / "strange.nii.gz", 99))
    with pytest.raises(InputError, match="whole numbers"):
        store.save_label("a", "final", write(tmp_path / "half.nii.gz", np.full(SHAPE, 0.5, np.float32)))
    assert everything(folder) == before
    empty = store.save_label("a", "final", label(tmp_path / "empty.nii.gz", 0))
    assert organ_in(empty.label.file) == 0


def test_a_reoriented_label_with_the_same_voxels_is_accepted(store: StudyStore, tmp_path: Path) -> None:
    turned = sitk.DICOMOrient(sitk.ReadImage(str(label(tmp_path / "x.nii.gz", 6))), "RAS")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    assert store.save_label("a", "final", tmp_path / "turned.nii.gz").label.version.number == 1


def test_an_image_is_not_replaced_by_another_of_its_name(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    same = sitk.ReadImage(str(folder / "a.nii.gz"))
    sitk.WriteImage(same, str(tmp_path / "again.mha"))
    assert store.add_image("a", tmp_path / "again.mha").file == folder / "a.nii.gz"
    other = write(tmp_path / "other.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
    with pytest.raises(ConflictError, match="another image"):
        store.add_image("a", other)
    assert set(store.labels()["a"]) == {"final"}
    assert store.add_image("new", other, {"from": "pacs"}).file == folder / "new.nii.gz"
    assert StudyStore(folder).image("new").info == {"from": "pacs"}
    with pytest.raises(InputError):
        store.add_image("bad", write(tmp_path / "flat.nii.gz", np.zeros(SHAPE, np.int16)))
    assert "bad" not in store.images()


def test_images_are_compared_without_the_lock_and_again_if_one_changes(
    store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, other, compared = ct(tmp_path / "sent", "a"), StudyStore(folder), []

    def meanwhile(first: Path, second: Path) -> bool:
        same = same_image(first, second)
        if not compared:  # the change would wait for a minute if this thread held the lock
            thread = threading.Thread(target=other.update_image_info, args=("b.1", {"n": 1}))
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
            write(folder / "a.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
        compared.append(same)
        return same

    monkeypatch.setattr(images, "same_image", meanwhile)
    with pytest.raises(ConflictError, match="another image"):
        store.add_image("a", sent)
    assert compared == [True, False]


def test_an_image_that_another_program_has_added_is_compared_with_the_new_one(store: StudyStore, folder: Path) -> None:
    ct(folder, "late")
    assert store.add_image("late", folder / "a.nii.gz").file == folder / "late.nii.gz"
    write(folder / "later.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1])
    with pytest.raises(ConflictError, match="another image"):
        store.add_image("later", folder / "a.nii.gz")


def test_a_removed_image_is_moved_away_with_all_its_files(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    aside = store.remove_image("a")
    assert "a" not in store.images()
    assert not (folder / "labels/final/a.nii.gz").exists()
    kept = {str(f.relative_to(aside)) for f in aside.rglob("*") if f.is_file()}
    assert kept == {"a.nii.gz", "labels/final/a.nii.gz", "versions/final/a/00001.nii.gz", "versions/final/a/00001.json"}
    ct(folder, "a")
    assert store.images()["a"].info == {}
    assert store.labels() == {}


def test_changes_by_other_programs_become_versions(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6), author="kim")
    ct(folder, "late")
    label(folder / "labels/second_reader/late.nii.gz", 3)
    assert "late" in store.images()
    assert store.label("late", "second_reader").version.origin == "found"
    label(folder / "labels/final/a.nii.gz", 9)  # an editor saves over the current file
    reopened = StudyStore(folder)
    assert [(v.number, v.origin) for v in reopened.versions("a", "final")] == [(1, "person"), (2, "found")]
    assert organ_in(reopened.version_file("a", "final", 1)) == 6
    assert organ_in(reopened.label("a", "final").file) == 9
    shutil.copyfile(
        reopened.version_file("a", "final", 1), folder / "labels/final/a.nii.gz"
    )  # the editor restores the old content
    assert StudyStore(folder).label("a", "final").version.number == 3
    (folder / "labels/final/a.nii.gz").unlink()
    assert "a" not in store.labels()
    assert [v.origin for v in store.versions("a", "final")] == ["person", "found", "found", "removed"]
    (folder / "late.nii.gz").unlink()
    assert "late" not in store.images()


def test_an_edited_file_is_not_lost_when_the_next_label_is_saved(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    label(folder / "labels/final/a.nii.gz", 9)
    store.save_label("a", "final", label(tmp_path / "y.nii.gz", 2))
    assert [organ_in(store.version_file("a", "final", n)) for n in (1, 2, 3)] == [6, 9, 2]


def test_studies_of_stock_monai_label_open_unchanged_and_can_go_back(folder: Path, tmp_path: Path) -> None:
    stock = LocalDatastore(str(folder), extensions=["*.nii.gz"])
    stock.save_label("a", str(label(tmp_path / "x.nii.gz", 6)), "final", {"client_id": "kim"})
    stock.update_image_info("a", {"strategy": {"first": {"ts": 7}}})
    before = everything(folder)
    store = StudyStore(folder)
    assert store.label("a", "final").version.info["client_id"] == "kim"
    assert store.image("a").info["strategy"] == {"first": {"ts": 7}}
    after = everything(folder)
    assert {name: after[name] for name in before} == before
    store.save_label("b.1", "final", label(tmp_path / "y.nii.gz", 2))
    again = LocalDatastore(str(folder), extensions=["*.nii.gz"])
    assert sorted(again.get_labeled_images()) == ["a", "b.1"]


def test_a_truncated_index_of_monai_label_does_not_matter(folder: Path, tmp_path: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    (folder / "datastore_v2.json").write_text('{"objects": {"a": {"ima')
    assert StudyStore(folder).label("a", "final").version.origin == "found"


def test_a_lost_or_damaged_index_is_rebuilt_from_the_files(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    for organ in (6, 2):
        store.save_label("a", "final", label(tmp_path / "x.nii.gz", organ), author="kim", info={"organ": organ})
    store.save_prediction("b.1", "unet_3d", label(tmp_path / "x.nii.gz", 3))
    store.remove_label("b.1", "unet_3d")
    store.update_image_info("a", {"note": "thin slices"})
    store.update_label_info("a", "final", {"checked": True})
    labels, images = store.labels(), store.images()
    index = folder / ".medsam2_atlas" / "studies.sqlite"
    for damage in ("lost", "garbage", "cut"):
        for file in index.parent.glob("studies.sqlite-*"):
            file.unlink()
        if damage == "lost":
            index.unlink()
        else:
            index.write_bytes(b"garbage" * 1000 if damage == "garbage" else index.read_bytes()[:5000])
        again = StudyStore(folder)
        assert again.labels() == labels
        assert again.images() == images
    assert labels["a"]["final"].version.info == {"organ": 2, "checked": True}


def test_an_unreadable_record_hides_only_itself(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    record = folder / ".medsam2_atlas/versions/final/a/00001.json"
    record.write_text("{")
    (folder / ".medsam2_atlas/studies.sqlite").unlink()
    again = StudyStore(folder)
    assert again.label("a", "final").version.number == 2
    with pytest.raises(StorageError, match="not a readable record"):
        again.versions("a", "final")


def test_own_changes_do_not_cause_a_scan_of_the_folder(
    store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    assert store.counts() == (4, {"final": 1})  # scans the new tag once
    scans: list[bool] = []
    monkeypatch.setattr(store._reconciler, "run", lambda thorough=False: scans.append(thorough))
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 2))
    assert organ_in(store.labels()["a"]["final"].file) == 2
    assert scans == []
    label(folder / "labels/final/b.1.nii.gz", 3)
    store.counts()
    assert scans == [False]


def test_queries_during_a_save_do_not_scan_the_folder_either(
    store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6))
    store.counts()
    scans: list[bool] = []
    monkeypatch.setattr(store._reconciler, "run", lambda thorough=False: scans.append(thorough))
    with store._reconciler.own_change(folder / "labels" / "final"):
        label(folder / "labels/final/b.1.nii.gz", 3)
        with store._reconciler.own_change(folder / "labels" / "final"):
            label(folder / "labels/final/b.2.nii.gz", 3)
        store.counts()
    store.counts()
    assert scans == []


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be opened"):
        StudyStore(tmp_path / "file")


def test_thousands_of_studies_are_listed_quickly(tmp_path: Path) -> None:
    for n in range(2000):
        (tmp_path / f"case-{n}.nii.gz").touch()
    store = StudyStore(tmp_path)
    assert len(store.images()) == 2000
    with sqlite3.connect(tmp_path / ".medsam2_atlas/studies.sqlite") as database:
        assert database.execute("SELECT count(*) FROM images").fetchone() == (2000,)
    record = json.loads(json.dumps(store.image("case-7").info))
    assert record == {}
