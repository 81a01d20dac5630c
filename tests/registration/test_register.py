"""Registration aligns the sample patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.registration import (
    Affine,
    Displacement,
    Transform,
    WorkImage,
    build_common_space,
    register,
    registration_config,
)
from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.deformable import _unfolded
from medsam2_atlas.registration.features import mind_ssc
from medsam2_atlas.registration.prealign import prealign


@pytest.fixture(scope="module")
def pair(references: list[ReferenceFiles], target: Volume, target_truth: Volume) -> tuple[Volume, Volume, Volume, Volume]:
    image = read_volume(references[0].image)
    return target, target_truth, image, read_labels(references[0].label, image)


def overlap(transform: Transform, pair: tuple[Volume, Volume, Volume, Volume]) -> float:
    _, truth, _, labels = pair
    warped = transform.warp_labels(labels.array, labels.geometry, truth.geometry)
    return mean_dice(dice_per_organ(warped, truth.array, range(1, 16)))


def test_each_stage_improves_the_overlap_of_organs(pair: tuple[Volume, Volume, Volume, Volume]) -> None:
    config = registration_config()
    fixed, moving = WorkImage.of(pair[0], config.spacing), WorkImage.of(pair[2], config.spacing)
    start = prealign(fixed, moving, config)
    affine = refine_affine(fixed, moving, start, config)
    whole = register(fixed, moving, config)
    coarse, middle, fine = (overlap(t, pair) for t in (Transform((start,)), Transform((affine,)), whole))
    assert coarse > 0.15
    assert middle > coarse - 0.02
    assert fine > middle + 0.05


@pytest.mark.parametrize("shift", [(40.0, 0.0, 0.0), (0.0, -60.0, 0.0), (0.0, 0.0, 80.0)])
def test_a_shifted_patient_is_found(shift: tuple[float, float, float], target: Volume) -> None:
    config = registration_config()
    image = WorkImage.of(target, config.spacing)
    moved = WorkImage(image.hu, image.valid, image.origin + torch.tensor(shift), image.spacing)
    found = refine_affine(image, moved, prealign(image, moved, config), config)
    middle = image.points().reshape(-1, 3).mean(0)
    assert ((found(middle) - middle) - torch.tensor(shift)).abs().max() < 3.0


def test_a_scan_of_the_upper_half_is_registered_to_the_upper_half(target: Volume) -> None:
    config = registration_config()
    whole = WorkImage.of(target, config.spacing)
    half = len(whole.hu) // 2
    upper = WorkImage(
        whole.hu[half:], whole.valid[half:], whole.origin + torch.tensor([0, 0, half * whole.spacing]), whole.spacing
    )
    found = refine_affine(upper, whole, prealign(upper, whole, config), config)
    middle = upper.points().reshape(-1, 3).mean(0)
    assert (found(middle) - middle).abs().max() < 6.0


def test_voxels_without_a_scan_do_not_change_the_pre_alignment(target: Volume) -> None:
    # In an atlas of few references, the grid of the mean image may be much larger than their scans.
    config = registration_config()
    whole = WorkImage.of(target, 8.0)
    depth, rows, columns = whole.shape
    lower = whole.cropped((slice(0, depth // 2), slice(0, rows), slice(0, columns)))
    upper = whole.cropped((slice(depth // 3, depth), slice(0, rows), slice(0, columns)))
    below = torch.full((40, rows, columns), -1000.0)
    origin = upper.origin - torch.tensor([0.0, 0.0, 40 * upper.spacing])
    larger = WorkImage(torch.cat([below, upper.hu]), torch.cat([below > 0, upper.valid]), origin, upper.spacing)
    pairs = ((lower, upper), (lower, larger)), ((upper, lower), (larger, lower))
    for exact, with_margin in pairs:
        expected, found = prealign(*exact, config), prealign(*with_margin, config)
        assert torch.equal(found.matrix, expected.matrix)
        assert torch.allclose(found.shift, expected.shift, atol=1e-3)


def test_registration_is_deterministic(target: Volume, references: list[ReferenceFiles]) -> None:
    config = registration_config().model_copy(update={"spacing": 8.0, "adam_steps": 5, "affine_steps": (5, 5)})
    images = [WorkImage.of(v, config.spacing) for v in (target, read_volume(references[0].image))]
    points = images[0].points().reshape(-1, 3)[::97]
    first, second = (register(*images, config)(points) for _ in range(2))
    assert torch.equal(first, second)


def test_the_descriptor_ignores_brightness_and_contrast() -> None:
    features = registration_config().features
    image = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0)) * 20
    assert torch.allclose(mind_ssc(image, features), mind_ssc(image * 2 + 30, features), atol=1e-3)


def test_a_common_space_of_one_image_is_that_image(target: Volume) -> None:
    config = registration_config().model_copy(update={"spacing": 8.0})
    image = WorkImage.of(target, config.spacing)
    space = build_common_space([image], config)
    points = image.points().reshape(-1, 3)[::53]
    assert (space.transforms[0](points) - points).norm(dim=1).median() < 4.0


def test_affine_maps_are_inverted() -> None:
    affine = Affine(torch.tensor(np.diag([2.0, 1.0, 0.5]), dtype=torch.float32), torch.tensor([1.0, 2.0, 3.0]))
    points = torch.rand(5, 3)
    assert torch.allclose(affine.inverse()(affine(points)), points, atol=1e-6)


def test_a_field_that_folds_is_smoothed_until_it_hardly_folds() -> None:
    generator = torch.Generator().manual_seed(0)
    wild = Displacement(torch.randn(3, 24, 24, 24, generator=generator) * 6, torch.zeros(3), 4.0)
    assert wild.folding() > 0.05
    config = registration_config().deformable
    assert _unfolded(wild, config).folding() <= 0.005
    calm = Displacement(wild.field * 0.01, wild.origin, wild.spacing)
    assert _unfolded(calm, config) is calm
