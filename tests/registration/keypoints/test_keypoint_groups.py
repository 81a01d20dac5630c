"""Groups of keypoints find their transforms without a reference image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2_atlas.registration import Displacement, Landmarks, Transform
from medsam2_atlas.registration.keypoints.bundle import Bundle
from medsam2_atlas.registration.keypoints.group import FewMatchesError, _level, join_group, register_group
from medsam2_atlas.registration.keypoints.matching import Matches
from medsam2_atlas.registration.keypoints.splines import Lattice
from registration.keypoints.scenes import CONFIG, box_of, images_of, random_points

COUNT = 600


def stretched(points: np.ndarray, scale: tuple[float, ...], shift: tuple[float, ...]) -> np.ndarray:
    moved: np.ndarray = points * np.array(scale) + np.array(shift)
    return moved


def bent(points: np.ndarray, amplitude: float) -> np.ndarray:
    """Returns points that a smooth wave of 300 mm displaces along all axes."""
    moved: np.ndarray = points + amplitude * np.sin(2 * np.pi * np.roll(points, 1, axis=1) / 300)
    return moved


def apply(transform: Transform, points: np.ndarray) -> np.ndarray:
    moved: np.ndarray = transform(torch.from_numpy(points).float()).numpy()
    return moved


def errors(places: list[np.ndarray], halves: list[Transform]) -> np.ndarray:
    """Returns the distance of each place, as each image shows it, to the mean of the group in the common space, in mm."""
    common = np.stack([apply(half, points) for half, points in zip(halves, places, strict=True)])
    distances: np.ndarray = np.linalg.norm(common - common.mean(0), axis=2)
    return distances


@pytest.fixture(scope="module")
def places() -> list[np.ndarray]:
    points = random_points(COUNT, 0)
    return [
        points,
        stretched(points, (1.1, 0.9, 1.05), (30, -20, 500)),
        stretched(bent(points, 12), (0.95, 1.0, 1.1), (-200, 15, -90)),
        bent(points, -10),
    ]


def registered(places: list[np.ndarray], outliers: float = 0.0, **changes: object) -> list[Transform]:
    config = CONFIG.model_copy(update=changes)
    return register_group(images_of(places, outliers), [box_of(points) for points in places], 4.0, config)


def test_a_group_recovers_scalings_and_shifts_despite_outliers() -> None:
    points = random_points(COUNT, 0)
    places = [points, stretched(points, (1.1, 0.9, 1.05), (30, -20, 500)), stretched(points, (1, 1.1, 0.9), (-300, 9, -90))]
    halves = registered(places, outliers=0.4, levels=0)
    assert errors(places, halves).mean() < 1.5
    scales = np.stack([half.maps[0].matrix.diagonal().numpy() for half in halves])  # type: ignore[attr-defined]
    assert scales.mean(0) == pytest.approx(np.ones(3), abs=1e-4)
    assert scales[1] / scales[0] == pytest.approx(1 / np.array([1.1, 0.9, 1.05]), rel=0.02)


def test_splines_recover_a_smooth_deformation_better_than_the_linear_stage(places: list[np.ndarray]) -> None:
    linear, whole = (errors(places, registered(places, outliers=0.3, **change)) for change in ({"levels": 0}, {}))
    assert whole.mean() < 0.6 * linear.mean()
    assert whole.mean() < 3


def test_the_mean_displacement_of_a_group_is_zero(places: list[np.ndarray]) -> None:
    images = images_of(places)
    shift = np.mean([half.maps[0].shift.numpy() for half in registered(places, levels=0)], axis=0)  # type: ignore[attr-defined]
    assert shift == pytest.approx(np.zeros(3), abs=0.05)
    pairs = [Matches(i, j, np.arange(COUNT), np.arange(COUNT)) for i in range(4) for j in range(i + 1, 4)]
    near = [bent(places[0], amplitude) for amplitude in (0, 8, -8, 5)]
    bundle = Bundle(near, pairs, range(4), CONFIG)
    control = _level(bundle, Lattice.around(np.zeros(3), np.full(3, 300.0), 100.0), CONFIG)
    assert np.abs(control).max() > 1
    assert np.abs(control.mean(0)).max() < 1e-9
    assert len(images) == 4


def test_no_lattice_point_moves_farther_than_the_limit_and_fields_do_not_fold() -> None:
    points = random_points(COUNT, 0)
    wild = points + np.random.default_rng(3).normal(0, 60, points.shape)
    pairs = [Matches(0, 1, np.arange(COUNT), np.arange(COUNT))]
    bundle = Bundle([points, wild], pairs, (0, 1), CONFIG)
    lattice = Lattice.around(np.zeros(3), np.full(3, 300.0), 50.0)
    control = _level(bundle, lattice, CONFIG.model_copy(update={"min_weight": 0.0, "iterations": 200}))
    assert np.abs(control).max() <= 0.4 * 50 + 1e-6
    for values in control:
        assert lattice.field(values, 4.0, np.zeros(3), np.full(3, 300.0)).folding() == 0


def test_a_half_transform_is_inverted_to_a_fraction_of_a_millimetre(places: list[np.ndarray]) -> None:
    half = registered(places)[2]
    middle = torch.from_numpy(places[2][(np.abs(places[0] - 150) < 110).all(1)]).float()
    assert (half.inverse()(half(middle)) - middle).norm(dim=1).max() < 0.5
    assert (half.undo(half(middle)) - middle).norm(dim=1).max() < 0.1


def test_a_target_joins_a_group_that_does_not_move(places: list[np.ndarray]) -> None:
    halves = registered(places[:3])
    images = images_of(places, outliers=0.3)
    group = Landmarks.of([image.moved(half) for image, half in zip(images, halves, strict=False)])
    assert group is not None
    before = [image.points.copy() for image in group.images]
    joined = join_group(images[3], box_of(places[3]), group, 4.0, CONFIG)
    common = np.mean([apply(half, points) for half, points in zip(halves, places, strict=False)], axis=0)
    inner = (np.abs(places[0] - 150) < 120).all(1)
    assert np.linalg.norm(apply(joined, places[3]) - common, axis=1)[inner].mean() < 3.5
    assert all(np.array_equal(image.points, old) for image, old in zip(group.images, before, strict=True))


def test_groups_are_deterministic(places: list[np.ndarray]) -> None:
    first, again = (registered(places[:3], outliers=0.2) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(values, other.arrays()[name]) for name, values in one.arrays().items())


def test_a_single_image_does_not_move() -> None:
    points = random_points(30, 0)
    (half,) = registered([points])
    assert apply(half, points) == pytest.approx(points, abs=1e-3)


def test_an_image_with_few_matches_is_named() -> None:
    points = random_points(COUNT, 0)
    images = images_of([points, points])
    (stranger,) = images_of([random_points(10, 4)], seed=9)
    with pytest.raises(FewMatchesError) as failure:
        register_group([*images, stranger], [box_of(points)] * 3, 4.0, CONFIG)
    assert failure.value.number == 2
    with pytest.raises(FewMatchesError):
        join_group(stranger, box_of(points), Landmarks((images[0],)), 4.0, CONFIG)


def test_the_weights_of_a_spline_sum_to_one_and_reproduce_linear_displacements() -> None:
    lattice = Lattice.around(np.array([-20.0, 0, 10]), np.array([130.0, 90, 60]), 25.0)
    inside = random_points(50, 1, 40.0) + np.array([0, 10, 15])
    basis = lattice.basis(inside)
    assert basis.sum(1) == pytest.approx(1)
    x, y, z = (lattice.lower[k] + (np.arange(lattice.cells[k] + 3) - 1) * 25.0 for k in range(3))
    control = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1).reshape(-1, 3)
    assert basis @ control == pytest.approx(inside)
    field: Displacement = lattice.field(0.1 * control, 5.0, inside.min(0), inside.max(0))
    moved = field(torch.from_numpy(inside).float()).numpy()
    assert moved == pytest.approx(1.1 * inside, abs=1e-3)
