"""An image that can be fetched again is deleted only if a person has no work on it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import SimpleITK as sitk

from medsam2_atlas.storage import StudyStore, images


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    studies = tmp_path / "studies"
    studies.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray([[[0, 0], [0, 0]], [[0, 0], [0, 0]]]), str(studies / "a.nii.gz"))
    return StudyStore(studies)


def draft_of(store: StudyStore) -> Path:
    folder = store.work.path / "drafts" / "a"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 32}.draft").write_bytes(b"{}")
    return folder


def test_an_image_without_work_is_deleted(store: StudyStore) -> None:
    assert store.drop_image("a")
    assert "a" not in store.images()


def test_an_image_that_somebody_needs_is_kept_and_no_change_comes_in_between(store: StudyStore) -> None:
    waiting: list[threading.Thread] = []

    def needed() -> bool:
        waiting.append(threading.Thread(target=store.assignments.assign, args=("a", "kim", "lee"), daemon=True))
        waiting[0].start()
        waiting[0].join(0.3)
        return bool(store.assignments.all())

    assert not store.drop_image("a", lambda: True)
    assert "a" in store.images()
    assert store.drop_image("a", needed)
    assert waiting[0].ident is not None
    waiting[0].join(10)
    assert "a" in store.assignments.all(), "the assignment waited for the end of the deletion"


def test_a_label_map_that_another_program_has_just_removed_hides_no_draft(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_of(store)
    file = store.path / "labels" / "other" / "a.nii.gz"
    found = images.ImageChanges.belongings

    def listed(changes: images.ImageChanges, study: str) -> dict[Path, str]:
        return {file: "labels/other/a.nii.gz"} | found(changes, study)

    monkeypatch.setattr(images.ImageChanges, "belongings", listed)
    assert not store.drop_image("a")
    assert "a" in store.images()


def test_a_label_map_that_is_not_recorded_yet_counts_as_work(store: StudyStore) -> None:
    folder = store.path / "labels" / "other"
    folder.mkdir(parents=True)
    shutil.copy(store.path / "a.nii.gz", folder / "a.nii.gz")
    assert not store.drop_image("a")
    assert "a" in store.images()
