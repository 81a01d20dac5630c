"""Grids that span whole slices (`slice_pixels`): their position, label maps on them, and the way back to the CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsam2_atlas.imaging.volume import Volume, from_sitk
from medsam2_atlas.unet import UNet, UNetConfig, build_unet, cached_transforms, predict, preprocess, random_transforms, restore
from medsam2_atlas.unet.resampling import nearest

TURN = np.radians(12)
OBLIQUE = (1.0, 0.0, 0.0, 0.0, float(np.cos(TURN)), float(-np.sin(TURN)), 0.0, float(np.sin(TURN)), float(np.cos(TURN)))


def whole_slices(dimensions: int = 2, pixels: tuple[int, int] = (64, 64), z: float = 0.0) -> UNetConfig:
    """Returns the configuration of a tiny network whose grid spans whole slices."""
    patch = (*pixels, 8)[:dimensions]
    sizes = {"dimensions": dimensions, "spacing": (0.0, 0.0, z), "slice_pixels": pixels, "patch": patch}
    return UNetConfig.model_validate({**sizes, "filters": (4, 8, 16), "heads": 0})


def scan(
    size: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 5.0), direction: tuple[float, ...] = OBLIQUE
) -> Volume:
    """Returns a CT of air with a ball of soft tissue at the centre of its field of view."""
    z, y, x = np.ogrid[: size[2], : size[1], : size[0]]
    away = sum(((index - (n - 1) / 2) / (n / 4)) ** 2 for index, n in zip((x, y, z), size, strict=True))
    image = sitk.GetImageFromArray(np.where(away < 1, 40, -1000).astype(np.float32))
    image.SetSpacing(spacing)
    image.SetOrigin((-30.0, 12.0, 50.0))
    image.SetDirection(direction)
    return from_sitk(image, "scan")


def organs_of(volume: Volume) -> np.ndarray:
    """Returns a label map `[z, y, x]` with two organs that touch, and one that reaches a corner of the field of view."""
    labels = (volume.array > 0).astype(np.uint8) * 6
    labels[..., labels.shape[2] // 2 :] *= 2
    labels[labels == 12] = 1
    labels[:2, : labels.shape[1] // 3, : labels.shape[2] // 3] = 8
    return labels


def files(folder: Path, volume: Volume, labels: np.ndarray) -> dict[str, str]:
    """Writes a CT and its label map `[z, y, x]`, and returns both files."""
    result = {}
    for key, written in (("image", volume), ("label", volume.with_array(labels))):
        result[key] = str(folder / f"{key}.nii.gz")
        sitk.WriteImage(written.as_image(), result[key])
    return result


@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((90, 60, 7), (0.7, 0.9, 5.0)),
        ((64, 64, 5), (1.0, 1.0, 2.0)),
        ((40, 25, 9), (3.0, 3.0, 1.0)),
        ((256, 240, 3), (0.4, 0.4, 8.0)),
    ],
)
def test_the_grid_has_the_requested_pixels_and_spans_the_field_of_view(
    size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    volume = scan(size, spacing)
    image = preprocess(volume, whole_slices(pixels=(64, 48)))
    assert tuple(image.shape) == (1, size[2], 48, 64)
    edges = [(-0.5, -0.5, -0.5), (63.5, 47.5, size[2] - 0.5)]
    expected = [(-0.5, -0.5, -0.5), tuple(n - 0.5 for n in size)]
    for found, corner in zip(edges, expected, strict=True):
        world = image.affine.numpy() @ [*reversed(found), 1.0]
        assert np.allclose(world[:3], volume.geometry.to_world(np.array(corner)), atol=1e-6)
    inside = np.argwhere(image[0].numpy() > 0.25).mean(0)
    assert np.allclose(inside, ((size[2] - 1) / 2, 23.5, 31.5), atol=0.05)  # the ball stays at the centre


def test_a_spacing_along_z_applies_in_addition_to_the_pixels() -> None:
    image = preprocess(scan((50, 50, 21), (1.0, 1.0, 2.0)), whole_slices(z=4.0))
    assert tuple(image.shape) == (1, 11, 64, 64)
    assert np.allclose(image.pixdim.numpy(), (4.0, 50 / 64, 50 / 64))


def test_detail_finer_than_the_pixels_is_smoothed_away() -> None:
    volume = scan((256, 256, 3))
    checks = np.indices(volume.array.shape).sum(0) % 2 * 200.0 - 60  # ±100 HU about 40 HU
    image = preprocess(volume.with_array(checks.astype(np.float32)), whole_slices())
    assert float(image.std()) < 0.01


@pytest.mark.parametrize("size", [(64, 64, 5), (32, 20, 7), (30, 26, 4)])
def test_a_label_map_on_a_grid_at_least_twice_as_fine_comes_back_unchanged(size: tuple[int, int, int], tmp_path: Path) -> None:
    volume = scan(size)
    labels = organs_of(volume)
    cached = cached_transforms(whole_slices())(files(tmp_path, volume, labels))
    assert tuple(cached["label"].shape) == tuple(cached["image"].shape) == (1, size[2], 64, 64)
    assert np.allclose(cached["label"].affine, cached["image"].affine)
    assert np.array_equal(brought_back(cached["label"], volume), labels)


def brought_back(label: torch.Tensor, volume: Volume) -> np.ndarray:
    """Returns a label map of the network's grid on the CT's grid, `[z, y, x]`, by the way of predictions."""
    certain = torch.nn.functional.one_hot(label[0].as_tensor().long(), 16).movedim(-1, 0).float()
    return restore(certain, label.affine, volume.geometry).labels


@pytest.mark.parametrize("size", [(128, 128, 5), (100, 90, 4), (150, 200, 3)])
def test_a_label_map_on_a_coarser_grid_comes_back_to_within_a_pixel_and_without_a_shift(
    size: tuple[int, int, int], tmp_path: Path
) -> None:
    volume = scan(size)
    labels = np.where(volume.array > 0, 6, 0).astype(np.uint8)
    cached = cached_transforms(whole_slices())(files(tmp_path, volume, labels))
    found = brought_back(cached["label"], volume)
    wrong = found != labels
    steps = [int(np.ceil(n / 64)) for n in size[1::-1]]  # rows and columns
    for plane, truth in zip(wrong, labels > 0, strict=True):
        box = sitk.GetImageFromArray(truth.astype(np.uint8))
        radius = [steps[1], steps[0]]
        rim = sitk.GetArrayFromImage(sitk.BinaryDilate(box, radius)) - sitk.GetArrayFromImage(sitk.BinaryErode(box, radius))
        assert not (plane & (rim == 0)).any()
    shift = np.argwhere(found > 0).mean(0) - np.argwhere(labels > 0).mean(0)
    assert np.abs(shift).max() < 0.1  # `nearest-exact` shifts the first of these by 0.5


@pytest.mark.parametrize(("old", "new"), [(7, 7), (5, 16), (100, 256), (512, 256), (400, 256), (3, 1), (1, 4)])
def test_each_new_pixel_takes_one_of_the_nearest_old_ones(old: int, new: int) -> None:
    places = (np.arange(new) + 0.5) * old / new - 0.5
    index = nearest(old, new).numpy()
    assert index.min() >= 0
    assert index.max() < old
    distances = np.abs(places[:, None] - np.arange(old)).min(1)
    assert np.allclose(np.abs(index - places), distances)
    assert abs((index - places).mean()) < 0.01 or new < 4


def test_halved_slices_take_first_and_second_pixels_in_turn() -> None:
    assert nearest(8, 4).tolist() == [0, 3, 4, 7]


def test_patches_are_whole_slices_that_keep_every_pixel_if_nothing_is_changed(tmp_path: Path) -> None:
    never = dict.fromkeys(("shape", "resolution", "blur", "noise", "intensity_scale", "intensity_shift", "contrast"), 0.0)
    config = UNetConfig.model_validate(whole_slices(pixels=(64, 36)).model_dump() | {"augmentation": never})
    volume = scan((80, 60, 6))
    cached = cached_transforms(config)(files(tmp_path, volume, organs_of(volume)))
    slices = [plane.numpy() for plane in cached["label"][0]]
    for patch in random_transforms(config)(dict(cached)):
        assert tuple(patch["image"].shape) == (1, 36, 64)
        assert any(np.array_equal(patch["label"][0], plane) for plane in slices)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("size", [(90, 50, 6), (20, 20, 11)])
def test_a_prediction_has_the_grid_of_the_ct(dimensions: int, size: tuple[int, int, int]) -> None:
    config = whole_slices(dimensions)
    network = build_unet(config).eval()
    torch.nn.init.zeros_(network.output_block.conv.conv.weight)
    volume = scan(size)
    with torch.no_grad():
        network.output_block.conv.conv.bias.copy_(torch.eye(16)[6] * 9)
    found = predict(volume, UNet(network, config, Path("best.pt"), "0"))
    assert found.labels.shape == volume.array.shape
    assert (found.labels == 6).all()  # up to the edges of the field of view
