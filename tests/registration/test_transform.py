"""Transforms are composed, inverted, applied to images, and stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import Affine, Displacement, Transform, WorkImage, sample


def wavy(seed: int = 0) -> Displacement:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 4, 4, 4, generator=generator) * 4
    field = torch.nn.functional.interpolate(coarse, size=(20, 22, 24), mode="trilinear", align_corners=True)[0]
    return Displacement(field, torch.tensor([-20.0, 10.0, 5.0]), 4.0)


def turn() -> Affine:
    return Affine(torch.tensor([[1.1, 0.1, 0.0], [-0.1, 0.9, 0.05], [0.0, 0.0, 1.2]]), torch.tensor([5.0, -3.0, 8.0]))


def inner_points() -> torch.Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 50 + torch.tensor([-5.0, 25.0, 20.0])


def test_composition_applies_the_first_map_first() -> None:
    double, shift = Affine(torch.eye(3) * 2, torch.zeros(3)), Affine(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    both = Transform((double,)).then(Transform((shift,)))
    assert both(torch.tensor([1.0, 1.0, 1.0])).tolist() == [3.0, 4.0, 5.0]


def test_the_inverse_maps_points_back() -> None:
    transform = Transform((wavy(), turn()))
    points = inner_points()
    missed = (transform.inverse()(transform(points)) - points).norm(dim=1)
    assert missed.median() < 0.05
    assert missed.max() < 0.6


def test_a_shift_moves_labels_by_whole_voxels(tiny: Volume) -> None:
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2, 3, 4] = 7
    shift = Transform((Affine(torch.eye(3), torch.tensor([1.5, 0.0, -3.0])),))
    moved = shift.warp_labels(labels, tiny.geometry, tiny.geometry)
    assert np.argwhere(moved).tolist() == [[3, 3, 3]]
    assert moved[3, 3, 3] == 7


def test_warped_images_are_air_outside_the_moving_image(tiny: Volume) -> None:
    far = Transform((Affine(torch.eye(3), torch.tensor([0.0, 0.0, 12.0])),))
    warped = far.warp_image(tiny.array, tiny.geometry, tiny.geometry)
    assert np.allclose(warped[0], tiny.array[4])
    assert (warped[3:] == -1000).all()


def test_images_of_another_grid_are_resampled_in_the_world(tiny: Volume) -> None:
    grid = Geometry((4, 4, 3), (3.0, 3.0, 3.0), (-8.5, 22.0, 33.0))
    warped = Transform().warp_image(tiny.array, tiny.geometry, grid)
    assert warped[0, 0, 0] == pytest.approx(tiny.array[1, 1, 1], abs=1e-3)
    assert warped[1, 0, 1] == pytest.approx(tiny.array[2, 1, 3], abs=1e-3)


def test_transforms_stay_the_same_after_storage(tmp_path: Path) -> None:
    transform = Transform((wavy(), turn()))
    transform.save(tmp_path / "t.npz")
    points = inner_points()
    assert (Transform.load(tmp_path / "t.npz")(points) - transform(points)).abs().max() < 0.02


def test_a_file_without_a_transform_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_text("nothing")
    with pytest.raises(AtlasError, match="not a saved transform"):
        Transform.load(tmp_path / "t.npz")


def test_folding_is_counted() -> None:
    assert wavy().folding() < 0.05
    torn = Displacement(torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0)) * 30, torch.zeros(3), 4.0)
    assert torn.folding() > 0.2


def test_values_do_not_depend_on_the_number_of_points_sampled_at_once() -> None:
    points = torch.rand(40_001, 3, generator=torch.Generator().manual_seed(2)) * 90 - 5  # shared out between threads
    map = wavy()
    together = sample(map.field, points, map.origin, map.spacing)
    separately = torch.cat([sample(map.field, some, map.origin, map.spacing) for some in points.split(5_000)], 1)
    assert together.shape == (3, 40_001)
    assert torch.equal(together, separately)


def test_an_image_is_not_darker_at_the_border_of_its_field_of_view() -> None:
    valid = torch.zeros(16, 16, 16, dtype=torch.bool)
    valid[4:12, 4:12, 4:12] = True
    image = WorkImage(torch.where(valid, 50.0, -1000.0), valid, torch.zeros(3), 3.0)
    hu, seen = image.warped(image.points() + torch.tensor([1.0, 0.0, 0.0]))
    assert seen.sum() == 8**3
    assert torch.allclose(hu[seen], torch.tensor(50.0))
    assert (hu[~seen] == -1000).all()
    coarse = image.at_spacing(7.0)
    assert coarse.valid.any() and torch.allclose(coarse.hu[coarse.valid], torch.tensor(50.0))
