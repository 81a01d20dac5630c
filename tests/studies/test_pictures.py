"""Small pictures of studies are drawn once, show the label map, and take limited space."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.thumbnail import SIZE
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies.pictures import Pictures


def write(file: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))
    return file


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """Returns a CT whose head end is bright, and whose voxels are twice as high as wide."""
    array = np.full((20, 16, 24), -1000, np.int16)
    array[:, 4:12, 4:20] = 40
    array[15:, 4:12, 4:20] = 240
    return write(tmp_path / "ct.nii.gz", array, (1, 1, 2))


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), int)


def test_a_picture_shows_a_coronal_slice_with_the_head_at_the_top(ct: Path, tmp_path: Path) -> None:
    pictures = Pictures(WorkFolder(tmp_path), 10**9)
    shown = pixels(pictures.draw("a", ct))
    assert shown.shape == (SIZE, round(SIZE * 24 / 40), 3)
    column = shown[:, shown.shape[1] // 2, 0]
    assert (column[20], column[SIZE // 2], shown[20, 2, 0]) == (255, 127, 0)


def test_a_ct_with_few_slices_is_shown_by_an_axial_one(tmp_path: Path) -> None:
    array = np.zeros((4, 30, 60), np.int16)
    array[2] = 40
    shown = pixels(Pictures(WorkFolder(tmp_path), 10**9).draw("a", write(tmp_path / "ct.nii.gz", array)))
    assert shown.shape == (SIZE // 2, SIZE, 3)


def test_the_label_map_selects_the_slice_and_is_drawn_in_colour(ct: Path, tmp_path: Path) -> None:
    labels = np.zeros((20, 16, 24), np.uint8)
    labels[5:10, 5, 8:16] = 6
    file = write(tmp_path / "label.nii.gz", labels, (1, 1, 2))
    pictures = Pictures(WorkFolder(tmp_path), 10**9)
    grey, coloured = (pixels(pictures.draw(key, ct, label)) for key, label in (("a", None), ("b", file)))
    assert (grey[..., 0] == grey[..., 2]).all()
    differing = (coloured != grey).any(2)
    assert differing.mean() == pytest.approx(5 * 8 / (20 * 24), abs=0.01)


def test_a_label_map_on_another_grid_is_refused(ct: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "label.nii.gz", np.ones((20, 16, 24), np.uint8), (1, 1, 3))
    with pytest.raises(InputError):
        Pictures(WorkFolder(tmp_path), 10**9).draw("a", ct, file)


def test_an_offset_of_the_values_is_corrected_if_the_operator_says_so(ct: Path, tmp_path: Path) -> None:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(ct))) + 1000
    shifted = write(tmp_path / "shifted.nii.gz", array, (1, 1, 2))
    pictures = Pictures(WorkFolder(tmp_path), 10**9)
    assert (pixels(pictures.draw("b", shifted, hu=HuRule.parse("-1000"))) == pixels(pictures.draw("a", ct))).all()


def test_pictures_that_were_used_longest_ago_make_room_for_new_ones(ct: Path, tmp_path: Path) -> None:
    size = Pictures(WorkFolder(tmp_path), 10**9).draw("first", ct).stat().st_size
    pictures = Pictures(WorkFolder(tmp_path), 3 * size)
    old = pictures.find("first")
    assert old is not None
    os.utime(old, (1, 1))
    second = pictures.draw("second", ct)
    os.utime(second, (2, 2))
    assert pictures.find("first") == old  # its use makes it newer than the second one
    for key in ("third", "fourth"):
        pictures.draw(key, ct)
    kept = [key for key in ("first", "second", "third", "fourth") if pictures.find(key) is not None]
    assert "fourth" in kept
    assert "second" not in kept
    assert sum(file.stat().st_size for file in old.parent.iterdir()) <= 3 * size
