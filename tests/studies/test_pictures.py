"""Pictures of studies show the preferred label map and are drawn once for each version."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.storage import FINAL, StudyStore
from medsam2_atlas.studies.pictures import study_picture
from storage.test_store import ct, label

TAGS = (FINAL, "unet_3d")


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    ct(tmp_path / "studies", "a")
    return StudyStore(tmp_path / "studies")


def test_a_picture_is_drawn_once_for_each_version(store: StudyStore, tmp_path: Path) -> None:
    drawn: list[str] = []

    def image_of(study: str) -> Path:
        drawn.append(study)
        return store.image(study).file

    store.save_prediction("a", "unet_3d", label(tmp_path / "x.nii.gz", 6))
    first = study_picture(store, "a", TAGS, image_of)
    assert first.read_bytes().startswith(b"\x89PNG")
    assert study_picture(store, "a", TAGS, image_of) == first
    assert drawn == ["a"]
    store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 2))
    assert study_picture(store, "a", TAGS, image_of) != first


def test_a_study_without_a_label_map_has_no_picture(store: StudyStore) -> None:
    with pytest.raises(NotFoundError, match="no label map to show"):
        study_picture(store, "a", TAGS, str)
