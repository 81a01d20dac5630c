"""Pictures of differences are drawn once and share the limit of all pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.imaging.dicom_order import read_dicom_order
from medsam2_atlas.storage import StudyStore
from medsam2_atlas.studies.difference_pictures import Shown, difference_picture
from medsam2_atlas.studies.pictures import Pictures


class Case:
    """A study of 12 slices with two label maps that differ on each slice."""

    def __init__(self, folder: Path) -> None:
        image = sitk.GetImageFromArray(np.random.default_rng(1).integers(-200, 200, (12, 16, 16)).astype(np.int16))
        sitk.WriteImage(image, str(folder / "a.nii.gz"))
        self.store, self.loads = StudyStore(folder), 0
        self.file = self.store.image("a").file

    def load(self) -> tuple[Path, Any, np.ndarray, np.ndarray]:
        self.loads += 1
        first = np.zeros((12, 16, 16), np.uint8)
        first[:, 4:9, 4:9] = 6
        return self.file, read_dicom_order(self.file, of_series=False), first, np.roll(first, 2, axis=2)

    def picture(self, pictures: Pictures, number: int, others: tuple[int, ...] = ()) -> Path:
        def more(*_: np.ndarray) -> list[Shown]:
            return [Shown(6, other) for other in others]

        return difference_picture(self.store, pictures, "a", "pair", Shown(6, number), self.load, more)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "studies"
    folder.mkdir()
    return Case(folder)


def test_the_ct_is_read_once_for_all_slices_of_a_pair(case: Case) -> None:
    pictures = Pictures(case.store.work, 10**9)
    files = [case.picture(pictures, number, (0, 1, 2)) for number in (0, 1, 2, 0)]
    assert case.loads == 1
    assert files[0] == files[3]
    assert len({file.read_bytes() for file in files}) == 3


def test_pictures_of_all_slices_stay_below_the_limit(case: Case) -> None:
    size = case.picture(Pictures(case.store.work, 10**9), 0).stat().st_size
    limit = 4 * size
    pictures = Pictures(case.store.work, limit)
    for number in range(12):
        newest = case.picture(pictures, number)
        assert sum(file.stat().st_size for file in newest.parent.iterdir()) <= limit
    assert newest.exists()
