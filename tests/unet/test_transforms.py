"""Resampling of files to the network's grid, and random changes that keep left and right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsam2_atlas.imaging.volume import Volume, from_sitk
from medsam2_atlas.unet import cached_transforms, preprocess, random_transforms, unet_config
from medsam2_atlas.unet.config import AugmentationConfig

CONFIG = unet_config("unet_3d")


def body(spacing: tuple[float, float, float] = (2.0, 2.0, 2.5), size: tuple[int, int, int] = (80, 70, 60)) -> sitk.Image:
    """Returns a cuboid body of soft tissue in air."""
    hu = np.full(size[::-1], -1000, np.float32)
    hu[:, 8:-8, 8:-8] = 40
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    image.SetOrigin((-80.0, -70.0, -75.0))
    return image


def files(folder: Path) -> dict[str, str]:
    image = body()
    labels = np.zeros((60, 70, 80), np.uint8)
    labels[20:40, 20:50, 12:24] = 2  # LPS: low x is the patient's right
    labels[20:40, 20:50, 56:68] = 3
    labels[30:33, 40:43, 40:43] = 11
    label = sitk.GetImageFromArray(labels)
    label.CopyInformation(image)
    sitk.WriteImage(image, str(folder / "i.nii.gz"))
    sitk.WriteImage(label, str(folder / "l.nii.gz"))
    return {"image": str(folder / "i.nii.gz"), "label": str(folder / "l.nii.gz")}


def test_the_grid_has_the_networks_spacing_and_is_cropped_to_the_body() -> None:
    volume = from_sitk(body())
    image = preprocess(volume, CONFIG)
    assert np.allclose(image.pixdim.numpy(), 3.0, atol=0.01)
    assert tuple(image.shape) == pytest.approx((1, 50, 36, 43), abs=1)
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    assert image.median() == pytest.approx(0.5, abs=0.01)  # 40 HU in a window of −160 to 240


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL", "PIR"])
def test_world_positions_are_kept_in_any_file_orientation(code: str) -> None:
    picture = body()
    picture[30, 40, 20] = 3000.0
    picture[31, 40, 20] = 3000.0
    expected = np.array(picture.TransformIndexToPhysicalPoint((30, 40, 20)))
    image = preprocess(from_sitk(sitk.DICOMOrient(picture, code)), replace_spacing((2.0, 2.0, 2.5)))
    z, y, x = (int(v[0]) for v in torch.where(image[0] == image.max()))
    found = (image.affine @ torch.tensor([z, y, x, 1.0], dtype=torch.float64))[:3].numpy()
    assert np.abs(found - expected).max() < 2.1


def replace_spacing(spacing: tuple[float, float, float]) -> object:
    return CONFIG.model_copy(update={"spacing": spacing})


def test_detail_finer_than_the_new_grid_is_smoothed_away() -> None:
    checks = body((0.75, 0.75, 2.0), (200, 180, 40))
    array = sitk.GetArrayFromImage(checks)
    array[:, 8:-8, 8:-8] += 100 * (np.indices(array[:, 8:-8, 8:-8].shape).sum(0) % 2 * 2 - 1)
    noisy = sitk.GetImageFromArray(array)
    noisy.CopyInformation(checks)
    inside = preprocess(from_sitk(noisy), CONFIG)[0, 5:-5, 8:-8, 8:-8]
    assert float(inside.std()) < 0.01  # ±100 HU would be a deviation of 0.25


def test_left_stays_left_and_every_patch_has_the_networks_size(tmp_path: Path) -> None:
    cached = cached_transforms(CONFIG)(files(tmp_path))
    assert cached["known"].nonzero().ravel().tolist() == [0, 2, 3, 11]
    change = random_transforms(CONFIG)
    change.set_random_state(seed=5)
    both = 0
    for _ in range(25):
        for patch in change(dict(cached)):
            assert tuple(patch["image"].shape) == tuple(patch["label"].shape) == (1, 64, 64, 64)
            x = [np.where(np.asarray(patch["label"][0]) == k)[2] for k in (2, 3)]
            if len(x[0]) > 50 and len(x[1]) > 50:
                both += 1
                assert x[0].mean() < x[1].mean()
    assert both > 15


def test_small_organs_get_as_many_patches_as_large_ones(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"patch": (16, 16, 16)})
    cached = cached_transforms(config)(files(tmp_path))
    change = random_transforms(config)
    change.set_random_state(seed=6)
    hits = [float((p["label"] == 11).any()) for _ in range(60) for p in change(dict(cached))]
    assert np.mean(hits) > 0.2  # one in forty patches at random positions would contain it


def test_two_dimensional_patches_are_axial_slices(tmp_path: Path) -> None:
    config = unet_config("unet_2d").model_copy(update={"patch": (32, 32)})
    cached = cached_transforms(config)(files(tmp_path))
    assert np.allclose(cached["image"].pixdim.numpy(), (2.5, 2.0, 2.0), atol=0.01)
    for patch in random_transforms(config)(dict(cached)):
        assert tuple(patch["image"].shape) == (1, 32, 32)


def test_organs_listed_as_annotated_are_known_even_if_absent(tmp_path: Path) -> None:
    cached = cached_transforms(CONFIG)(files(tmp_path) | {"annotated": [2, 3, 4, 11]})
    assert cached["known"].nonzero().ravel().tolist() == [0, 2, 3, 4, 11]


def test_a_volume_may_be_given_instead_of_a_file() -> None:
    volume: Volume = replace(from_sitk(body()), source="memory")
    assert preprocess(volume, CONFIG).shape[0] == 1


def test_settings_switch_the_random_changes_off(tmp_path: Path) -> None:
    never = dict.fromkeys(("shape", "resolution", "blur", "noise", "intensity_scale", "intensity_shift", "contrast"), 0.0)
    config = CONFIG.model_copy(update={"augmentation": AugmentationConfig.model_validate(never)})
    cached = cached_transforms(config)(files(tmp_path))
    patches = random_transforms(config)(dict(cached)) + random_transforms(CONFIG)(dict(cached))
    known = set(np.unique(np.asarray(cached["image"])).tolist())
    assert [set(np.unique(np.asarray(patch["image"])).tolist()) <= known for patch in patches] == [True, True, False, False]
