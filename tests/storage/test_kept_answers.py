"""Answers about all studies stay the same objects until something changes, and follow changes of other processes."""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.storage import StudyStore
from storage.test_store import ct, label


def test_images_and_label_maps_are_read_again_only_after_a_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ct(tmp_path / "studies", name)
    store, other = StudyStore(tmp_path / "studies"), StudyStore(tmp_path / "studies")
    file = label(tmp_path / "label.nii.gz", 6)
    store.save_label("a", "final", file)
    images, labels = store.images(), store.labels()
    assert store.images() is images
    assert store.labels() is labels
    other.save_label("b", "final", file, author="kim")
    assert store.labels()["b"]["final"].version.author == "kim"
    assert store.labels()["a"]["final"] == labels["a"]["final"]
    assert "b" not in labels, "an answer that somebody holds does not change"
    other.update_image_info("a", {"PatientID": "7"})
    assert store.images()["a"].info == {"PatientID": "7"}
    (tmp_path / "studies" / "b.nii.gz").unlink()
    assert list(store.images()) == ["a"]
    assert list(store.labels()) == ["a"]


def test_a_lost_index_is_not_answered_from_memory(tmp_path: Path) -> None:
    ct(tmp_path / "studies", "a")
    store = StudyStore(tmp_path / "studies")
    assert list(store.images()) == ["a"]
    store.index_file.unlink()
    ct(tmp_path / "studies", "b")
    assert list(store.images()) == ["a", "b"]


def test_an_image_that_can_be_fetched_again_is_deleted_unless_a_person_has_worked_on_it(tmp_path: Path) -> None:
    for name in "abcd":
        ct(tmp_path / "studies", name)
    store, file = StudyStore(tmp_path / "studies"), label(tmp_path / "label.nii.gz", 6)
    store.save_prediction("a", "unet_3d", file)
    store.save_label("b", "mine", file)
    store.save_label("c", "final", file)
    store.remove_label("c", "final")
    (tmp_path / "studies" / "labels" / "other").mkdir()
    (tmp_path / "studies" / "labels" / "other" / "d.nii.gz").write_bytes(file.read_bytes())
    copy = (tmp_path / "studies" / "a.nii.gz").read_bytes()
    assert [store.drop_image(name) for name in "abcd"] == [True, False, False, False]
    assert list(store.images()) == ["b", "c", "d"]
    assert "a" not in store.labels()
    assert not (tmp_path / "studies" / ".medsam2_atlas" / "removed").exists()
    (tmp_path / "studies" / "a.nii.gz").write_bytes(copy)
    assert store.label("a", "unet_3d").version.number == 1


def test_measures_are_parsed_again_only_after_a_change(tmp_path: Path) -> None:
    table, other = (ScoreTable(tmp_path / "t.sqlite") for _ in range(2))
    for name in ("a", "b"):
        table.put(name, "s", {}, Assessment({"novelty": 0.5}, {}))
    rows = table.rows()
    assert table.rows() is rows
    other.put("b", "s", {}, Assessment({"novelty": 0.7}, {}))
    assert table.rows()["b"].values == {"novelty": 0.7}
    assert table.rows()["a"] is rows["a"]
    other.drop("b")
    assert list(table.rows()) == ["a"]
